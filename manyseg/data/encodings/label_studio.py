"""Label Studio's JSON of all tasks: brush strokes as packed run lengths, polygons, rectangles and ellipses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import msgspec
import numpy as np
from pydantic import Field

from manyseg.data.encodings.base import ImageFiles
from manyseg.data.encodings.drawn import (
    Coordinate,
    DrawnEncoding,
    Schema,
    Shape,
    Side,
    bitmap,
    ellipse,
    polygon,
    turned,
    validated,
)
from manyseg.data.encodings.records import ImageRecord, RecordEncoding
from manyseg.data.encodings.run_lengths import Outline
from manyseg.data.encodings.schema import load_json
from manyseg.data.files import DataError
from manyseg.data.window import Size

__all__ = ["LabelStudio"]

LABELS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")
UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")
"""What the tool makes of a file's name when it is uploaded."""


class _Value(Schema):
    """An object; coordinates are in per cent of the image's sides."""

    format: Literal["rle"] | None = None
    rle: list[Annotated[int, Field(ge=0, le=255)]] | None = None
    points: list[Annotated[list[Coordinate], Field(min_length=2, max_length=2)]] | None = None
    x: Coordinate = 0
    y: Coordinate = 0
    width: Coordinate | None = None
    height: Coordinate | None = None
    x_radius: Annotated[Coordinate | None, Field(alias="radiusX")] = None
    y_radius: Annotated[Coordinate | None, Field(alias="radiusY")] = None
    rotation: Coordinate = 0


class _Result(Schema):
    height: Annotated[Side, Field(alias="original_height")]
    width: Annotated[Side, Field(alias="original_width")]


class LabelStudio(DrawnEncoding, RecordEncoding[dict[str, Any]]):
    """The JSON export of a project; of several annotations of a task the last one counts that was not cancelled.

    An image is found by the name of its file, with or without the eight characters that an upload puts before it.
    """

    name = "label_studio"
    items = msgspec.json.Decoder(list[dict[str, Any]])

    def parse(self, path: Path) -> Iterator[ImageRecord]:
        """Gather the objects of every task."""
        tasks = load_json(path)
        if not isinstance(tasks, list):
            raise ValueError("it is no list of tasks")
        self._uploaded: dict[str, str] = {}
        for n, task in enumerate(tasks):
            name = image_name(task)
            if name is None:
                raise ValueError(f"task {n} names no image")
            uploaded = UPLOADED.fullmatch(name)
            if uploaded is not None:
                self._uploaded[uploaded[1]] = name
            results = [r for r in results_of(task) if any(k in r["value"] for k in LABELS)]
            size = None
            if results:
                first = validated(_Result, results[0], path, f"task {n}")
                size = (first.height, first.width)
            yield ImageRecord(name, size, msgspec.json.encode([r["value"] for r in results]))

    def called(self, image: str) -> str:
        """Return the name of the image's file, as the JSON has it."""
        name = PurePosixPath(image).name
        return self._uploaded.get(name, name)

    def size(self, files: ImageFiles) -> Size | None:
        """Return the size that the JSON gives, where it has objects."""
        return self.record(files).size

    def shapes(self, files: ImageFiles) -> tuple[Size, list[Shape]]:
        """Return the objects of an image in their order."""
        record, path = self.record(files), files.annotations
        assert path is not None
        size = record.size or files.image_size()
        found = []
        for i, item in enumerate(record.items):
            where = f"image '{files.name}': object {i}"
            value = validated(_Value, item, path, where)
            labels = next(item[k] for k in LABELS if k in item)
            if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
                raise DataError(path, f"{where}: it has the labels {labels!r}, not one", "give it one label")
            found.append(Shape(labels[0], _outline(value, size, path, where)))
        return size, found


def image_name(task: Any) -> str | None:
    """Return the name of the file that a task shows: the last part of the first value that looks like one."""
    data = task.get("data", task)
    for value in data.values():
        if isinstance(value, str) and re.search(r"\.(jpe?g|png|tiff?|bmp|webp)$", unquote(value), re.IGNORECASE):
            return PurePosixPath(unquote(value).replace("\\", "/")).name
    return None


def results_of(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List the results of a task's annotation, in the full form of the export and in the short one ("JSON-MIN")."""
    if "annotations" in task:
        kept = [a for a in task["annotations"] if not a.get("was_cancelled")]
        return [r for r in kept[-1]["result"] if isinstance(r.get("value"), Mapping)] if kept else []
    short = [v for v in task.values() if isinstance(v, list) and v and isinstance(v[0], Mapping)]
    return [{**entry, "value": entry} for entries in short for entry in entries]


def _outline(value: _Value, size: Size, path: Path, where: str) -> Outline:
    height, width = size
    scale = np.array([width, height]) / 100
    if value.rle is not None:
        return bitmap(_unpacked(bytes(value.rle), size, path, where), (0, 0), size, path, where)
    if value.points is not None:
        return polygon((np.array(value.points).reshape(-1, 2) * scale).tolist(), size, path, where)
    x, y = value.x * scale[0], value.y * scale[1]
    if value.x_radius is not None and value.y_radius is not None:
        radii = (value.x_radius * scale[0], value.y_radius * scale[1])
        return polygon(ellipse((x, y), radii, value.rotation), size, path, where)
    if value.width is not None and value.height is not None:
        w, h = value.width * scale[0], value.height * scale[1]
        corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
        # The tool turns a rectangle about its upper left corner.
        return polygon(turned(corners, value.rotation, (x, y)), size, path, where)
    raise DataError(path, f"{where}: neither rle, points, radii nor sides", "draw the object again or remove it")


class _Bits:
    """A stream of bits, the highest of a byte first."""

    def __init__(self, data: bytes) -> None:
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8)).tolist()
        self.at = 0

    def read(self, count: int) -> int:
        """Read a number of `count` bits; raises ValueError at the end of the data."""
        if self.at + count > len(self.bits):
            raise ValueError("it ends too early")
        value = 0
        for bit in self.bits[self.at : self.at + count]:
            value = value << 1 | bit
        self.at += count
        return value


def _unpacked(data: bytes, size: Size, path: Path, where: str) -> np.ndarray:
    """Unpack the strokes of a brush: RGBA values in runs of one value, or of values one by one; alpha is the object.

    Header: the number of values (32 bits), the bits of a value - 1 (5), and four times the bits of a length - 1 (4).
    A run: whether it has one value (1), which of the four sizes its length has (2), the length - 1, the value(s).
    """
    bits = _Bits(data)
    try:
        count, width = bits.read(32), bits.read(5) + 1
        if count != 4 * size[0] * size[1] or width > 8:
            raise ValueError(f"it has {count} values of {width} bits, not 4 for each pixel")
        lengths = [bits.read(4) + 1 for _ in range(4)]
        values, at = np.zeros(count, np.uint8), 0
        while at < count:
            single, end = bits.read(1), at
            end += 1 + bits.read(lengths[bits.read(2)])
            if end > count:
                raise ValueError("a run is too long")
            values[at:end] = bits.read(width) if single else [bits.read(width) for _ in range(at, end)]
            at = end
    except ValueError as e:
        raise DataError(path, f"{where}.rle: not the runs of a brush ({e})", "export again, or remove it") from None
    alpha: np.ndarray = values.reshape(*size, 4)[..., 3] > 0
    return alpha
