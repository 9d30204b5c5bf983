"""The command line: verbs and their options, no logic."""

from __future__ import annotations

import io
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from manyseg import __version__
from manyseg.atomic import check_target
from manyseg.errors import Interrupted, UserError

__all__ = ["app", "main"]

app = typer.Typer(
    name="manyseg",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One segmentation model from many datasets whose labels disagree.",
)

Set = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=V", help="Override a value of the recipe.")]
SetTest = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TEST.B=V", help="How images are predicted: test.flip=true, test.scales=[0.75,1.5]."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


class Evidence(StrEnum):
    """What a proposal of the label space may look at."""

    names = "names"
    text = "text"
    confusion = "confusion"
    both = "both"


class Relate(StrEnum):
    """How the classes of an unseen dataset are found among the unified nodes."""

    names = "names"
    text = "text"
    labels = "labels"


class Segments(StrEnum):
    """The formats of files of things and stuff."""

    coco_panoptic = "coco_panoptic"
    instance_ids = "instance_ids"


class Maps(StrEnum):
    """The files that every model can write for an image."""

    masks = "masks"
    overlays = "overlays"
    confidence = "confidence"
    scores = "scores"
    geojson = "geojson"
    coco = "coco"


class Values(StrEnum):
    """The values that classes have in files."""

    positions = "positions"
    card = "card"


class Output(StrEnum):
    """What an exported model gives for every pixel."""

    label_map = "label_map"
    probabilities = "probabilities"
    scores = "scores"


class Precision(StrEnum):
    """Numbers of an exported model."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


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


def main() -> None:
    """Run the command line; a user's mistake ends in one line on stderr and exit code 1."""
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
    propose_and_report(
        sources,
        by=by.value if by else None,
        confusion=confusion,
        text=text,
        constraints=constraints,
        questions=questions,
        taxonomy=taxonomy,
        out=out,
        html=html,
    )


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="What to train, on what, how.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder  [default: runs/<recipe's name>]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --out was stopped.")] = False,
    data_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where relative roots of datasets start  [default: the recipe's data.root, else MANYSEG_DATA, "
            "else the recipe's folder]",
        ),
    ] = None,
    check: Annotated[bool, typer.Option(help="Check all files that will be read before the first step.")] = True,
    overrides: Set = None,
) -> None:
    """Train one model on the datasets of a recipe, evaluate it, and write a report."""
    from manyseg.runs.run import train_recipe

    try:
        train_recipe(recipe, out=out, resume=resume, data_root=data_root, overrides=overrides or [], check=check)
    except Interrupted as e:
        if str(e):  # The first of several processes speaks for all.
            print(e, file=sys.stderr)
        raise typer.Exit(e.status) from None


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="What to segment.")],
    labels: Annotated[
        str,
        typer.Option(help="A training dataset's name, 'unified', 'hierarchy' (htss), a card, or words: \"road, sky\"."),
    ] = "unified",
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("predictions"),
    write: Annotated[
        list[Maps] | None, typer.Option(help="A kind of file; may be repeated  [default: masks and overlays]")
    ] = None,
    segments: Annotated[
        Segments | None, typer.Option(help="Also write things and stuff, from a model that tells objects apart.")
    ] = None,
    values: Annotated[
        Values | None,
        typer.Option(help="Values of classes  [default: positions; in COCO files and instance ids the card's]"),
    ] = None,
    relate: Annotated[
        str, typer.Option(metavar="names|text|TABLE", help="How classes that were not trained on find their nodes.")
    ] = "names",
    resume: Annotated[bool, typer.Option("--resume", help="Leave out images whose files are there already.")] = False,
    overrides: SetTest = None,
) -> None:
    """Segment images in any dataset's labels or the unified ones: masks, and overlays with a legend."""
    from manyseg.runs.run import predict_run

    kinds = [kind.value for kind in dict.fromkeys(write or (Maps.masks, Maps.overlays))]
    kinds += [segments.value] if segments else []
    done = predict_run(
        run, images, labels=labels, out=out, overrides=overrides or [], kinds=kinds,
        values=values.value if values else None, relate=relate, resume=resume,
    )  # fmt: skip
    print(done.to_text())


@app.command()
def export(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="An .onnx or .pt2 file  [default: RUN/model.onnx]"),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(help="A label space as in predict; may be repeated  [default: all datasets and unified]"),
    ] = None,
    output: Annotated[
        Output, typer.Option(help="Classes, their probabilities, or what the network gives.")
    ] = Output.label_map,
    precision: Annotated[Precision, typer.Option(help="fp16 is for GPUs; int8 needs --images.")] = Precision.fp32,
    words: Annotated[
        bool, typer.Option("--words", help="Make the classes an input, for a model that reads words.")
    ] = False,
    images: Annotated[
        list[Path] | None,
        typer.Option(metavar="IMAGE|FOLDER", help="Photos to compare the file with the network on, and for int8."),
    ] = None,
) -> None:
    """Write a run's model as one file that runs without this package: ONNX, or a package of torch.export."""
    from manyseg.runs.run import export_run

    export_run(
        run, out or run / "model.onnx", labels=labels or [], output=output.value, precision=precision.value,
        words=words, images=images or [],
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
    overrides: SetTest = None,
) -> None:
    """Evaluate a run on its own datasets or on others, and print a table."""
    from manyseg.runs.run import conflicts_run, cross_run, evaluate_run

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
        check_target(json)
    scores = evaluate_run(run, data or [], relate=relate.value, overrides=overrides or [])
    try:
        if json is not None:
            scores.write(json)
    finally:
        # Last: whoever reads this may stop reading (`| head`); and shown even if the file cannot be written.
        print(scores.to_markdown())


@app.command()
def push(
    run: RunFolder,
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository on the Hugging Face hub.")],
    license: Annotated[
        str,
        typer.Option(
            prompt="Licence of the weights, such as apache-2.0 (the datasets' own may restrict it)",
            help="Under which licence the weights are given: apache-2.0, cc-by-4.0, other ...",
        ),
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Put a run on the hub: weights, label spaces and a model card; from there `hf://USER/NAME` is a run."""
    from manyseg.runs.hub import push as push_run

    print(f"{push_run(run, name, license, private=private)}: load it as hf://{name}")


@app.command()
def compare(runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs' folders.")]) -> None:
    """Put runs side by side, with mean and spread over seeds."""
    from manyseg.report.compare import compare as compare_runs

    print(compare_runs(runs).to_markdown())


if __name__ == "__main__":
    main()
