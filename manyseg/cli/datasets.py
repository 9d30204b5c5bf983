"""Verbs before any training: the demo, checking and describing datasets, relating their labels."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from manyseg.cli.app import app

__all__: list[str] = []


class Evidence(StrEnum):
    """What a proposal of the label space may look at."""

    names = "names"
    text = "text"
    confusion = "confusion"
    both = "both"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the demo writes; replaced if a demo wrote it.")] = Path("demo"),
) -> None:
    """Train every method on a small generated world, evaluate, and write pictures and a report: minutes on a laptop."""
    from manyseg.demo import run_demo

    run_demo(out)


@app.command()
def data(
    card: Annotated[str | None, typer.Argument(metavar="[CARD", help="A built-in card's name, or a path.")] = None,
    root: Annotated[Path | None, typer.Argument(metavar="ROOT]", help="Where the dataset is.")] = None,
    histogram: Annotated[bool, typer.Option(help="Print pixels and images of every class.")] = False,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a contact sheet picture.")] = None,
    guess: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Find out what a folder holds, and make its card.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="CARD.toml", help="Write the guessed card.")
    ] = None,
    choice: Annotated[
        int | None, typer.Option(metavar="N", help="Take the Nth of several guesses  [default: the first]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """List the built-in cards, check a dataset on disk and say how to fix what is wrong, or guess a folder's card."""
    from manyseg.data import check

    if guess is not None:
        from manyseg.data.guess import print_guess

        if card is not None:
            raise typer.BadParameter("--guess makes a card, and goes without one: manyseg data --guess FOLDER")
        print_guess(guess, out, choice, force=force)
        return
    if out is not None or choice is not None or force:
        raise typer.BadParameter("-o, --choice and --force go with --guess FOLDER")
    if card is None:
        check.print_cards()
        return
    if root is None:
        raise typer.BadParameter("give the dataset's folder too: manyseg data CARD ROOT")
    check.print_check(card, root, histogram=histogram, sheet=sheet)


@app.command()
def init(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER...]", help="Folders of datasets, one each; a terminal is asked for them."),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="RECIPE.toml", help="The recipe.")] = Path("recipe.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Find out what folders hold, and write their cards and a recipe that trains on them."""
    from manyseg.runs.init import asked_folders, init_recipe

    init_recipe(folders or asked_folders(), out, force=force)


@app.command()
def pack(
    source: Annotated[str, typer.Argument(metavar="RECIPE|CARD", help="A recipe, or a card with its ROOT.")],
    root: Annotated[Path | None, typer.Argument(metavar="[ROOT]", help="Where the card's dataset is.")] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="Where the pack is written; or an address.")
    ] = Path("packed"),
    shard_mb: Annotated[
        int, typer.Option("--shard-mb", metavar="N", min=1, max=1 << 20, help="Megabytes of a tar file, at most.")
    ] = 256,
) -> None:
    """Pack datasets into a few tar files with an index, for disks and object stores that are slow with small files."""
    if root is not None:
        from manyseg.data.packing import print_pack

        print_pack(source, root, out, shard_mb << 20)
        return
    from manyseg.runs.pack import pack_recipe

    pack_recipe(source, out, shard_bytes=shard_mb << 20)


@app.command()
def labels(
    sources: Annotated[list[str], typer.Argument(metavar="RECIPE|RUN|CARD...", help="Whose labels to relate.")],
    by: Annotated[Evidence | None, typer.Option(help="What to look at  [default: all there is]")] = None,
    confusion: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Counts a__b: class of a by what b's head called it.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A Hugging Face encoder, name or path  [default: offline]")
    ] = None,
    constraints: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="What was decided about pairs; answers are added.")
    ] = None,
    questions: Annotated[
        int, typer.Option(min=0, metavar="N", help="Ask N questions on the terminal, those that change most.")
    ] = 0,
    judge: Annotated[
        str | None,
        typer.Option(metavar="URL|MODEL", help="Ask a language model about the pairs in doubt: of a server, or local."),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option("--judge-model", metavar="NAME", help="Which model of the server to ask.")
    ] = None,
    judged: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="What the judge said about pairs; answers are added.")
    ] = None,
    taxonomy: Annotated[
        Path | None, typer.Option(metavar="FILE.tsv", help="Check and show this table, not the proposal.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE.tsv", help="Write the table.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page to explore it.")] = None,
    pins: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Propose the unified label space of several datasets, before any training, and show why."""
    from manyseg.runs.propose import propose_and_report

    if pins is not None:
        raise typer.BadParameter("--pins is now called --constraints, and its keys must_link and cannot_link")
    if judge_model is not None and judge is None:
        raise typer.BadParameter("--judge-model goes with --judge URL")
    propose_and_report(
        sources,
        by=by.value if by else None,
        confusion=confusion,
        text=text,
        constraints=constraints,
        questions=questions,
        judge=(judge, judge_model) if judge else None,
        judged=judged,
        taxonomy=taxonomy,
        out=out,
        html=html,
    )
