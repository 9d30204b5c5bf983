"""The command line: verbs and their options, no logic."""

from __future__ import annotations

import gc
import io
import os
import sys

from manyseg.cli import datasets, training, using  # noqa: F401  (their verbs register with the application, in this order)
from manyseg.cli.app import app
from manyseg.cores import share_cores
from manyseg.errors import UserError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; a user's mistake ends in one line on stderr and exit code 1."""
    share_cores()
    # Imports leave 400,000 objects that stay; the default of 700 looks for cycles among them 900 times.
    gc.set_threshold(10_000)
    # Looking for plugins reads the metadata of every package that is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that a terminal cannot show are spelled by their numbers.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as e:
        if e.filename is None:
            raise  # Of no file that somebody named.
        print(
            f"error: {e.filename}: {e.strerror}; check the path, and that it may be read and written", file=sys.stderr
        )
        sys.exit(1)
