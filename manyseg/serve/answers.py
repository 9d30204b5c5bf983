"""What the API answers: label spaces, label maps, classes and confidences."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
import torch
from fastapi.responses import JSONResponse, Response
from PIL import Image
from pydantic import BaseModel, Field

from manyseg.labels import IGNORE, LabelSpace
from manyseg.prediction.drawing import PixelValues, mask_image
from manyseg.prediction.prediction import Prediction
from manyseg.serve.served import Served

__all__ = ["Answer", "Health", "RunLabels", "answer", "mask_of", "png", "run_labels"]


class ClassOfSpace(BaseModel):
    """A class of a label space: its value in label maps, its name, and its colour (#rrggbb)."""

    value: int
    name: str
    color: str


class Space(BaseModel):
    """A label space; `ignored` is the value of pixels where no class is possible."""

    labels: str
    ignored: int
    classes: list[ClassOfSpace]


class RunLabels(BaseModel):
    """What a run can predict: label spaces, of which `default` says most, and any words where `reads_words`."""

    run: str
    default: str
    method: str
    reads_words: bool
    spaces: list[Space]


class FoundClass(ClassOfSpace):
    """A class that occurs: its share of the pixels, and the mean probability where it is (null: not known)."""

    share: float
    confidence: float | None


class LabelMap(BaseModel):
    """What was found in one label space; classes are those that occur, largest first."""

    labels: str
    ignored: int
    classes: list[FoundClass]
    label_map: str = Field(
        description="PNG in base64, of the image's own size: values of classes, of 8 bits with a palette of their "
        "colours, or of 16 bits for more than 255 classes."
    )
    confidence: str | None = Field(
        description="PNG in base64, at the resolution of the network: the probability of the most probable class, 0 to "
        "1 as 0 to 255. Null for a hierarchy, whose classes hold each other."
    )


class Answer(BaseModel):
    """Label maps of one image, in the order in which label spaces were asked for."""

    run: str
    width: int
    height: int
    maps: list[LabelMap]


class Health(BaseModel):
    """That the server answers, and which runs it serves."""

    status: str
    version: str
    runs: list[str]


def run_labels(served: Served) -> RunLabels:
    """List what a run can predict."""
    spaces = [
        Space(labels=name, ignored=PixelValues.positions(space).ignored, classes=_classes(space))
        for name, space in served.spaces.items()
    ]
    method = type(served.model.method).__name__
    return RunLabels(
        run=served.name, default=served.default, method=method, reads_words=served.reads_words, spaces=spaces
    )


def _classes(space: LabelSpace) -> list[ClassOfSpace]:
    both = zip(space.names, space.hex_colors, strict=True)
    return [ClassOfSpace(value=i, name=name, color=color) for i, (name, color) in enumerate(both)]


def answer(run: str, found: Mapping[str, Prediction]) -> Response:
    """Render an `Answer`: predictions of one image by their label spaces."""
    height, width = next(iter(found.values())).labels.shape
    maps = [_label_map(name, prediction).model_dump() for name, prediction in found.items()]
    return JSONResponse({"run": run, "width": width, "height": height, "maps": maps})


def _label_map(name: str, found: Prediction) -> LabelMap:
    """Describe one label map; a class's confidence is the mean over the network's cells whose centre it has."""
    classes, sure = _classes(found.space), found.confidence
    means = np.full(len(classes), np.nan)
    if sure is not None:
        rows, columns = (
            (np.arange(cells) * 2 + 1) * pixels // (2 * cells)
            for cells, pixels in zip(sure.shape, found.labels.shape, strict=True)
        )
        centres = found.labels[rows[:, None], columns]
        inside = centres != IGNORE
        counts, sums = (
            np.bincount(centres[inside], weights, len(classes)) for weights in (None, sure[inside].astype(np.float64))
        )
        means = np.divide(sums, counts, out=means, where=counts > 0)
    positions = found.space.positions
    return LabelMap(
        labels=name,
        ignored=PixelValues.positions(found.space).ignored,
        classes=[
            FoundClass(
                **classes[positions[c]].model_dump(),
                share=round(share, 6),
                confidence=None if np.isnan(means[positions[c]]) else round(float(means[positions[c]]), 4),
            )
            for c, share in found.shares.items()
        ],
        label_map=_base64(mask_of(found)),
        confidence=None if sure is None else _base64(Image.fromarray((255 * sure).round().astype(np.uint8))),
    )


def mask_of(found: Prediction) -> Image.Image:
    """Return a label map as `manyseg predict` writes it: values are positions."""
    return mask_image(torch.from_numpy(found.labels), found.space)


def _base64(image: Image.Image) -> str:
    return base64.b64encode(png(image)).decode()


def png(image: Image.Image) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    # Level 1 is several times as fast as the default, and label maps stay small.
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
