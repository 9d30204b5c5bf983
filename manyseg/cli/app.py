"""The application that all verbs belong to, and the arguments that several of them take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from manyseg import __version__
from manyseg.errors import Interrupted

__all__ = ["RunFolder", "TestOverrides", "app", "ended_by_signals"]

app = typer.Typer(
    name="manyseg",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One segmentation model from many datasets whose labels disagree.",
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
TestOverrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TEST.B=V", help="How images are predicted: test.flip=true, test.scales=[0.75,1.5]."),
]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Say what a signal left behind, and exit with its status; typer would say "Aborted"."""
    try:
        yield
    except Interrupted as e:
        if str(e):  # The first of several processes speaks for all.
            print(e, file=sys.stderr)
        raise typer.Exit(e.status) from None


def _version(asked: bool) -> None:
    if asked:
        print(f"manyseg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before any verb."""
