"""The application that all verbs belong to, and the arguments that several of them take."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from manyseg import __version__
from manyseg.errors import Interrupted
from manyseg.stop_signals import StopSignals

__all__ = ["RunFolder", "TestOverrides", "app"]


class _Verbs(TyperGroup):
    """The verbs, each of which a signal ends with a line that says so and the signal's status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with StopSignals():
                return super().invoke(ctx)
        except Interrupted as e:
            if str(e):  # The first of several processes speaks for all.
                with suppress(BrokenPipeError):
                    print(e, file=sys.stderr)
            raise typer.Exit(e.status) from None


app = typer.Typer(
    name="manyseg",
    cls=_Verbs,
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
