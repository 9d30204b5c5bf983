"""Boxes as lines of one text file: `00003.ppm;742;400;822;475;38`, as benchmarks of traffic signs have them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from manyseg.data.encodings.base import ImageFiles, ObjectBoxes
from manyseg.data.encodings.boxes import judged
from manyseg.data.encodings.records import FAULTS, ImageRecord, RecordEncoding
from manyseg.data.encodings.schema import Fault, read_bytes, shown
from manyseg.data.files import DataError
from manyseg.data.finding import Finding
from manyseg.data.window import Size
from manyseg.errors import UserError

__all__ = ["BoxLines"]

Pixel = Annotated[int, msgspec.Meta(ge=-(1 << 20), le=1 << 20)]

FIELDS = "image;left;top;right;bottom;class"


class _Line(msgspec.Struct, array_like=True):
    left: Pixel
    top: Pixel
    right: Pixel
    bottom: Pixel
    value: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
    number: int
    """The line in the file."""


class BoxLines(RecordEncoding[_Line]):
    """A text file of boxes, `image;left;top;right;bottom;class`, a line each; commas may stand for semicolons.

    `left` and `right` are the first and last columns of pixels inside the box, counted from 0, `top` and `bottom` its
    rows; `class` is a number. An image without a line has no object.
    """

    name = "box_lines"
    kind = "boxes"
    values = "number"
    objects = True
    sized = False
    items = msgspec.json.Decoder(list[_Line])

    def parse(self, path: Path) -> Iterator[ImageRecord]:
        """Gather the lines of every image."""
        try:
            lines = read_bytes(path).decode().splitlines()
        except UnicodeDecodeError as e:
            raise UserError(f"{path}: unreadable text ({e}); fetch the file again") from None
        boxes: dict[str, list[_Line]] = {}
        wrong: dict[str, list[DataError]] = {}
        for number, line in enumerate(lines, 1):
            if not (text := line.strip()):
                continue
            image, *rest = (part.strip() for part in text.replace(",", ";").split(";"))
            kept = boxes.setdefault(image, [])
            try:
                kept.append(msgspec.convert([*map(int, rest), number], _Line))
            except (ValueError, msgspec.ValidationError):
                fault = Fault("the line", f"{shown(text)} is not {FIELDS}", "correct it, or remove it")
                wrong.setdefault(image, []).append(fault.error(path, f"line {number}"))
        for image, found in boxes.items():
            yield ImageRecord(image, None, msgspec.json.encode(found), wrong.get(image, ())[:FAULTS])

    def _find(self, name: str) -> int | DataError:
        found = super()._find(name)
        if isinstance(found, DataError) and not self._ends.get((name.replace("\\", "/").rpartition("/")[2],)):
            self._add(ImageRecord(name, None, b"[]"))
            return len(self._names) - 1
        return found

    def read(self, files: ImageFiles) -> ObjectBoxes:
        """Read the boxes of an image."""
        assert files.annotations is not None
        size, items = files.image_size(), self.record(files).items
        if faults := [fault for item in items for fault in self._judge(item, size, files.annotations)]:
            raise DataError.joined(faults[:FAULTS])
        classes = self.raw.classes((i.value for i in items), files.annotations, "class")
        corners = np.array([(i.left, i.top, i.right + 1, i.bottom + 1) for i in items], np.float32).reshape(-1, 4)
        return ObjectBoxes.within(size, corners, classes)

    def _judge(self, item: _Line, size: Size, path: Path) -> Iterator[DataError]:
        verdict = judged(item.left, item.top, item.right + 1, item.bottom + 1, size)
        if verdict is None:
            return
        field = f"left, top, right, bottom = {shown([item.left, item.top, item.right, item.bottom])}"
        if verdict.severity == "error":
            yield Fault(field, verdict.what, verdict.fix).error(path, f"line {item.number}")
        else:
            self.warn(Finding("warning", verdict.what, str(path), verdict.fix, place=f"line {item.number}, {field}"))
