"""Objects as labelling tools draw them: outlines and bitmaps, painted one over the other.

Axes: H W pixels.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from pycocotools import mask as rle
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manyseg.data.encodings.base import Encoding, ImageFiles, RawValues, Regions
from manyseg.data.encodings.boxes import CORRECT, Verdict, judged
from manyseg.data.encodings.run_lengths import Outline, pixels
from manyseg.data.files import DataError
from manyseg.data.finding import Finding
from manyseg.data.window import Size, Window, size_text
from manyseg.labels import IGNORE

if TYPE_CHECKING:
    from jaxtyping import Bool

__all__ = [
    "EMPTY",
    "Coordinate",
    "DrawnEncoding",
    "Layer",
    "Point",
    "Schema",
    "Shape",
    "Side",
    "bitmap",
    "ellipse",
    "paint",
    "polygon",
    "turned",
    "validated",
]

Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Point = Annotated[list[Coordinate], Field(min_length=2, max_length=2)]
Side = Annotated[int, Field(ge=1, le=1 << 20)]

EMPTY = Verdict("warning", "an outline has no pixel, and is left out", CORRECT)

CIRCLE = 72
"""Corners of the polygon that stands for an ellipse."""

T = TypeVar("T", bound=BaseModel)


class Schema(BaseModel):
    """A part of an annotation file that is read; other fields may be there."""

    model_config = ConfigDict(strict=True, frozen=True)


class Shape(NamedTuple):
    """An object of an image: what the file calls its class, and its pixels."""

    value: str | int
    outline: Outline


class Layer(NamedTuple):
    """A painted object: the position of its class or IGNORE, its pixels, and whether they are one object's."""

    position: int
    outline: Outline
    known: bool = True


def paint(
    layers: Iterable[Layer], size: Size, raw: RawValues, window: Window | None = None, findings: Sequence[Finding] = ()
) -> Regions:
    """Paint objects over each other: those of unknown identity first, then as `raw.overlap` says.

    "smallest" puts the smaller object on top, "last" and "first" the one that comes later or earlier, and with "none"
    pixels under objects of several classes have no label. Pixels under no object are of the class `raw.background`,
    which is IGNORE unless the card names one: what is not annotated is not background. Of a `window` these pixels alone
    are painted.
    """
    ordered = list(layers)
    if raw.overlap == "first":
        ordered.reverse()
    elif raw.overlap in ("smallest", "none"):
        ordered.sort(key=lambda layer: -int(rle.area(layer.outline)))
    ordered.sort(key=lambda layer: layer.known)
    window = None if window is None else window.within(size)
    shape = size if window is None else (window.height, window.width)
    plane, several = np.zeros(shape, np.int32), np.zeros(shape, bool)
    classes = np.array([raw.background, *(layer.position for layer in ordered), IGNORE], np.int64)
    for i, layer in enumerate(ordered, 1):
        inside = pixels(layer.outline, window)
        if raw.overlap == "none":
            several |= inside & (plane > 0) & (classes[plane] != layer.position)
        plane[inside] = i
    plane[several] = len(classes) - 1
    known = np.array([True, *(layer.known for layer in ordered), True])
    return Regions(plane, classes, known, findings=findings)


class DrawnEncoding(Encoding):
    """An encoding of objects that are drawn; a class without a value is called by its name."""

    needs = frozenset({"annotations"})
    kind = "segments"
    values: ClassVar[Literal["number", "color", "word", "number or name"]] = "word"
    objects = True
    named = True
    drawn = True

    @abstractmethod
    def shapes(self, files: ImageFiles) -> tuple[Size, list[Shape]]:
        """Return the image's (height, width) and its objects in the order in which they were drawn."""

    def read(self, files: ImageFiles) -> Regions:
        """Paint the objects of an image."""
        size, shapes = self.shapes(files)
        assert files.annotations is not None
        positions = self.raw.classes((s.value for s in shapes), files.annotations, "label").tolist()
        layers = [Layer(position, s.outline) for position, s in zip(positions, shapes, strict=True)]
        findings = []
        for shape in shapes:
            said: Verdict | None = shape.outline.get("said")
            if said is not None:
                place = f"'{files.id}', label {shape.value!r}"
                findings.append(Finding(said.severity, said.what, str(files.annotations), said.fix, place=place))
        return paint(layers, size, self.raw, files.window, findings)


def validated(schema: type[T], data: Any, file: Path, where: str = "") -> T:
    """Check a part of an annotation file; raises DataError naming the file, the field and its value."""
    try:
        return schema.model_validate(data)
    except ValidationError as e:
        fault = e.errors(include_url=False, include_context=False)[0]
        place = where + "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in fault["loc"])
        found = repr(fault["input"])
        shown = "" if fault["type"] == "missing" else f" (it is {found if len(found) < 60 else found[:57] + '...'})"
        more = f", and {e.error_count() - 1} more faults" if e.error_count() > 1 else ""
        raise DataError(
            file, f"{place.lstrip('.')}: {fault['msg']}{shown}{more}", "correct or remove this entry"
        ) from None


def polygon(
    ring: Sequence[Sequence[float]], size: Size, file: Path, where: str, holes: Sequence[Sequence[Sequence[float]]] = ()
) -> Outline:
    """Fill a polygon of points (x, y) in pixels, without its `holes`; corners may lie outside by the image's size.

    Raises DataError for fewer than three points, for points further away, and where all of it lies outside.
    """
    outer = _fill(ring, size, file, where)
    (x0, y0), (x1, y1) = np.min(ring, 0), np.max(ring, 0)
    verdict = judged(x0, y0, x1, y1, size, "outline")
    if verdict is not None and verdict.severity == "error":
        raise DataError(file, f"{where}: {verdict.what}", verdict.fix)
    if holes:
        inside = rle.decode(outer).astype(bool)
        for hole in holes:
            inside &= ~rle.decode(_fill(hole, size, file, where)).astype(bool)
        outer = bitmap(inside, (0, 0), size, file, where)
    return _with(verdict, outer)


def _with(verdict: Verdict | None, outline: Outline) -> Outline:
    if verdict is None and not rle.area(outline):
        verdict = EMPTY
    return outline if verdict is None else {**outline, "said": verdict}


def _fill(ring: Sequence[Sequence[float]], size: Size, file: Path, where: str) -> Outline:
    if len(ring) < 3:
        raise DataError(file, f"{where}: a polygon of {len(ring)} points has no area", "correct or remove it")
    points = np.asarray(ring, np.float64)
    extent = np.array(size[::-1], np.float64)
    outside = ~((points >= -extent) & (points <= 2 * extent)).all(1)
    if outside.any():
        x, y = points[outside][0]
        what = f"{where}: the point ({x:g}, {y:g}) lies far outside the image of {size_text(size)}"
        raise DataError(file, what, "correct or remove it")
    found: list[Outline] = rle.frPyObjects([points.ravel().tolist()], *size)
    return found[0]


def ellipse(center: Sequence[float], radii: Sequence[float], degrees: float = 0.0) -> list[list[float]]:
    """Return the points of an ellipse, turned clockwise about its centre."""
    turn = math.radians(degrees)
    points = []
    for k in range(CIRCLE):
        x, y = (r * f(2 * math.pi * k / CIRCLE) for r, f in zip(radii, (math.cos, math.sin), strict=True))
        dx, dy = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
        points.append([center[0] + dx, center[1] + dy])
    return points


def turned(
    corners: Sequence[Sequence[float]], degrees: float, about: Sequence[float] | None = None
) -> list[list[float]]:
    """Turn points clockwise about a point, or about their centre."""
    a = math.radians(degrees)
    x, y = about or [sum(c[k] for c in corners) / len(corners) for k in (0, 1)]
    cos, sin = math.cos(a), math.sin(a)
    return [[x + (u - x) * cos - (v - y) * sin, y + (u - x) * sin + (v - y) * cos] for u, v in corners]


def bitmap(inside: Bool[np.ndarray, "h w"], corner: tuple[int, int], size: Size, file: Path, where: str) -> Outline:
    """Place a bitmap with its upper left pixel at `corner` (row, column) of an image; what sticks out is cut off.

    Raises DataError if it has pixels, and none in the image.
    """
    top, left = corner
    ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    verdict: Verdict | None = EMPTY
    if len(ys):
        verdict = judged(left + xs[0], top + ys[0], left + xs[-1] + 1, top + ys[-1] + 1, size, "bitmap")
    if verdict is not None and verdict.severity == "error":
        raise DataError(file, f"{where}: {verdict.what}", verdict.fix)
    rows, columns = min(top + inside.shape[0], size[0]), min(left + inside.shape[1], size[1])
    cut = inside[max(-top, 0) : max(rows - top, 0), max(-left, 0) : max(columns - left, 0)]
    plane = np.zeros(size, np.uint8, order="F")
    plane[max(top, 0) : max(top, 0) + cut.shape[0], max(left, 0) : max(left, 0) + cut.shape[1]] = cut
    return _with(verdict, rle.encode(plane))
