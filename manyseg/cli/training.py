"""Verbs that train and judge: train, eval, compare."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from manyseg import atomic
from manyseg.cli.app import RunFolder, TestOverrides, app

__all__: list[str] = []


class Relate(StrEnum):
    """How the classes of an unseen dataset are found among the unified nodes."""

    names = "names"
    text = "text"
    labels = "labels"


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="What to train, on what, how.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder  [default: runs/<recipe's name>]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --out was stopped.")] = False,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Start from the weights of a run: with its taxonomy corrected, or datasets or classes added.",
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where relative roots of datasets start  [default: the recipe's data.root, else MANYSEG_DATA, "
            "else the recipe's folder]",
        ),
    ] = None,
    check: Annotated[
        bool | None,
        typer.Option(
            "--check/--no-check",
            help="--check: say what the run would do and need, and stop. --no-check: train without reading all files "
            "before.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=V", help="Override a value of the recipe; A.B= takes it out."),
    ] = None,
) -> None:
    """Train one model on the datasets of a recipe, evaluate it, and write a report."""
    from manyseg.runs.run import train_recipe

    train_recipe(
        recipe, out=out, resume=resume, data_root=data_root, start=start, overrides=overrides or [],
        check=check is not False, dry_run=bool(check),
    )  # fmt: skip


@app.command(name="eval")
def evaluate(
    run: RunFolder,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="CARD=ROOT[:SPLIT]", help="Datasets to evaluate  [default: the recipe's]"),
    ] = None,
    relate: Annotated[Relate, typer.Option(help="How an unseen dataset's classes are related.")] = Relate.names,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the scores as JSON.")] = None,
    cross: Annotated[bool, typer.Option("--cross", help="Print every head on every dataset, by fitted maps.")] = False,
    conflicts: Annotated[
        bool, typer.Option("--conflicts", help="Print how often the training datasets' gradients oppose, by loss.")
    ] = False,
    overrides: TestOverrides = None,
) -> None:
    """Evaluate a run on its own datasets or on others, and print a table."""
    from manyseg.runs.trained import conflicts_run, cross_run, evaluate_run

    if conflicts:
        if data or json is not None or cross or overrides:
            raise typer.BadParameter("--conflicts measures the run's own training steps; it goes without other options")
        from manyseg.evaluation.gradient_conflict import conflicts_markdown

        print(conflicts_markdown(conflicts_run(run)))
        return
    if cross:
        if json is not None:
            raise typer.BadParameter("--cross prints a table of fitted maps; it goes without --json")
        print(cross_run(run, data or [], overrides=overrides or []).to_markdown())
        return
    if json is not None:
        atomic.check_target(json)
    scores = evaluate_run(run, data or [], relate=relate.value, overrides=overrides or [])
    try:
        if json is not None:
            scores.write(json)
    finally:
        # Last: whoever reads this may stop reading (`| head`); and shown even if the file cannot be written.
        print(scores.to_markdown())


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Runs' folders; the others are set against the first.")
    ],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page, with every class.")] = None,
) -> None:
    """Put runs side by side: means over the datasets that all have, spread over seeds, what classes gain and lose."""
    from manyseg.report.compare import compare as compare_runs

    if html is not None:
        atomic.check_target(html)
    found = compare_runs(runs)
    try:
        if html is not None:
            atomic.write(html, found.to_html())
    finally:
        print(found.to_markdown())
