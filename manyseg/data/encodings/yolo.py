"""YOLO's text files: an object a line, a class number and coordinates in parts of the image's sides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from manyseg.data.encodings.base import Encoding, ImageFiles, ObjectBoxes
from manyseg.data.encodings.boxes import judged
from manyseg.data.encodings.drawn import DrawnEncoding, Shape, polygon
from manyseg.data.files import DataError, stream
from manyseg.data.finding import Finding
from manyseg.data.window import Size
from manyseg.textfile import decode

__all__ = ["YoloBoxes", "YoloSegments"]

BEYOND = 0.5
"""Coordinates may lie outside 0 to 1 by so much: objects at the border; more are no parts of the sides."""


class _Line(NamedTuple):
    number: int
    value: int
    points: np.ndarray


def read_lines(path: Path) -> list[_Line]:
    """Read the objects of an image; no file means no object, as the format has it.

    Raises DataError naming the line and the value at fault.
    """
    try:
        with stream(path) as file:
            text = decode(file.read())
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(path, f"cannot be read ({e})", "save it as text") from None
    return [_line(path, n, line.split()) for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def _line(path: Path, number: int, words: list[str]) -> _Line:
    fix = "correct or remove the line"
    number_text = re.sub(r"\.0*$", "", words[0])  # Programs write 3 as 3.0, or 3.000000.
    if not number_text.isdecimal() or int(number_text) >= 1 << 31:
        raise DataError(path, f"line {number}: '{words[0]}' is no class number", fix)
    values = []
    for word in words[1:]:
        try:
            value = float(word)
        except ValueError:
            raise DataError(path, f"line {number}: '{word}' is no number", fix) from None
        if not -BEYOND <= value <= 1 + BEYOND:
            what = f"line {number}: {word} is not a part of the image's side, from 0 to 1"
            raise DataError(path, what, "divide pixels by the image's width and height")
        values.append(value)
    if len(values) == 4:
        x, y, w, h = values
        values = [x - w / 2, y - h / 2, x + w / 2, y - h / 2, x + w / 2, y + h / 2, x - w / 2, y + h / 2]
    elif len(values) < 6 or len(values) % 2:
        what = f"line {number}: {len(values)} coordinates; a box has 4, a polygon pairs of at least 3 points"
        raise DataError(path, what, fix)
    return _Line(number, int(number_text), np.array(values).reshape(-1, 2))


class YoloSegments(DrawnEncoding):
    """A text file an image, of class numbers and polygons; a line that holds a box is that rectangle."""

    name = "yolo_segments"
    values = "number"
    named = False
    per_image = True
    sized = False

    def size(self, files: ImageFiles) -> Size | None:
        """Return None: the file does not say."""
        return None

    def shapes(self, files: ImageFiles) -> tuple[Size, list[Shape]]:
        """Return the polygons in pixels."""
        assert files.annotations is not None
        size = files.image_size()
        found = []
        for line in read_lines(files.annotations):
            points = (line.points * size[::-1]).tolist()
            found.append(Shape(line.value, polygon(points, size, files.annotations, f"line {line.number}")))
        return size, found


class YoloBoxes(Encoding):
    """A text file an image, of class numbers and boxes (centre, width, height), or polygons, of which it is the box."""

    name = "yolo_boxes"
    needs = frozenset({"annotations"})
    kind = "boxes"
    objects = True
    per_image = True
    sized = False

    def size(self, files: ImageFiles) -> Size | None:
        """Return None: the file does not say."""
        return None

    def read(self, files: ImageFiles) -> ObjectBoxes:
        """Read the boxes in pixels."""
        assert files.annotations is not None
        size, lines = files.image_size(), read_lines(files.annotations)
        findings = _judged(files, size, lines)
        wrong = [f for f in findings if f.severity == "error"]
        if wrong:
            raise DataError.joined([DataError(f.where, f.what, f.fix, place=f.place) for f in wrong])
        classes = self.raw.classes((line.value for line in lines), files.annotations, "class")
        corners = np.array([[*line.points.min(0), *line.points.max(0)] for line in lines], np.float32).reshape(-1, 4)
        return ObjectBoxes.within(size, corners * np.tile(size[::-1], 2).astype(np.float32), classes, findings)


def _judged(files: ImageFiles, size: Size, lines: list[_Line]) -> list[Finding]:
    found = []
    for line in lines:
        (x0, y0), (x1, y1) = line.points.min(0) * size[::-1], line.points.max(0) * size[::-1]
        if (verdict := judged(x0, y0, x1, y1, size)) is not None:
            place = f"line {line.number}"
            found.append(Finding(verdict.severity, verdict.what, str(files.annotations), verdict.fix, place=place))
    return found
