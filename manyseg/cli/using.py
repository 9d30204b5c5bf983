"""Verbs that use a trained run: predict, export, serve, push."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from manyseg.cli.app import RunFolder, TestOverrides, app
from manyseg.errors import UserError

__all__: list[str] = []


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
    submission = "submission"
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


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE|FOLDER|VIDEO...", help="What to segment; also 'camera:0', or - for a pipe."),
    ],
    labels: Annotated[
        str,
        typer.Option(
            help="A training dataset's name, 'unified', 'hierarchy' (htss), a card's name or path, or words: "
            '"road, sky".'
        ),
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
    bands: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Bands to read, from 1 on  [default: the card's of --labels]")
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option("--range", metavar="BLACK,WHITE", help="Their values  [default: the card's of --labels]"),
    ] = None,
    sequence: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="A folder's images are the frames of a video, so many a second."),
    ] = None,
    smooth: Annotated[
        float, typer.Option(metavar="SECONDS", help="Average a video's class probabilities over time.")
    ] = 0.0,
    overrides: TestOverrides = None,
) -> None:
    """Segment images or videos in any dataset's labels or the unified ones: masks, and overlays with a legend."""
    from manyseg.runs.trained import predict_run

    kinds = [kind.value for kind in dict.fromkeys(write or (Maps.masks, Maps.overlays))]
    kinds += [segments.value] if segments else []
    done = predict_run(
        run, images, labels=labels, out=out, overrides=overrides or [], kinds=kinds,
        values=values.value if values else None, relate=relate, resume=resume, bands=_bands(bands),
        value_range=_range(value_range), sequence=sequence, smooth=smooth,
    )  # fmt: skip
    print(done.to_text())


def _bands(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(p.strip().isdecimal() and int(p) for p in parts):
        raise typer.BadParameter(f"--bands {text}: give three numbers from 1 on, as 4,3,2, or one")
    return tuple(int(p) for p in parts)


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(p) for p in text.split(","))
    except ValueError:
        low = high = 0.0
    if not -math.inf < low < high < math.inf:
        raise typer.BadParameter(f"--range {text}: give the values of black and white, as 0,4095")
    return low, high


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
    from manyseg.runs.trained import export_run

    export_run(
        run, out or run / "model.onnx", labels=labels or [], output=output.value, precision=precision.value,
        words=words, images=images or [],
    )  # fmt: skip


@app.command()
def serve(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN [RUN2]", help="A run's folder, or hf://USER/NAME; two are compared.")
    ],
    host: Annotated[
        str, typer.Option(help="Where to listen; on anything but the loopback every request needs the token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="MANYSEG_TOKEN", help="What requests must bring  [default: none on the loopback, else made up]"
        ),
    ] = None,
    upload: Annotated[float, typer.Option(min=0.001, metavar="MB", help="The largest upload.")] = 32,
    megapixels: Annotated[float, typer.Option(min=0.001, metavar="N", help="The largest image.")] = 50,
    rate: Annotated[int, typer.Option(min=1, metavar="N", help="Requests a minute of one client.")] = 600,
    queue: Annotated[int, typer.Option(min=1, metavar="N", help="Images that may wait; more are refused.")] = 64,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="For an upload to come, and for an image to be predicted.")
    ] = 60,
    overrides: TestOverrides = None,
) -> None:
    """Serve a run as a web page and a JSON API: photos in, label maps out, in the labels of any of its datasets."""
    if len(runs) > 2:
        raise typer.BadParameter(f"{len(runs)} runs were given; one is served, or two are compared")
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UserError('serving needs FastAPI and uvicorn; pip install "manyseg[serve]"') from None
    from manyseg.serve.limits import Limits
    from manyseg.serve.server import serve_runs

    limits = Limits(upload=round(upload * 1e6), pixels=round(megapixels * 1e6), rate=rate, queue=queue, timeout=timeout)
    serve_runs(runs, host=host, port=port, token=token or None, limits=limits, overrides=overrides or [])


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
