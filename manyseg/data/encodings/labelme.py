"""Labelme's JSON: a file an image with polygons, rectangles, circles and bitmaps."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from pydantic import Field

from manyseg.data.encodings.base import ImageFiles
from manyseg.data.encodings.drawn import (
    DrawnEncoding,
    Point,
    Schema,
    Shape,
    Side,
    bitmap,
    ellipse,
    polygon,
    validated,
)
from manyseg.data.encodings.run_lengths import Outline
from manyseg.data.encodings.schema import load_json
from manyseg.data.files import BROKEN, DataError, reason
from manyseg.data.window import Size

__all__ = ["Labelme"]


class _Shape(Schema):
    label: str
    points: list[Point]
    shape_type: Literal["polygon", "rectangle", "circle", "line", "linestrip", "point", "points", "mask"] | None = None
    group_id: int | str | None = None
    mask: str | None = None


class _File(Schema):
    shapes: list[_Shape]
    height: Annotated[Side | None, Field(alias="imageHeight")] = None
    width: Annotated[Side | None, Field(alias="imageWidth")] = None


class Labelme(DrawnEncoding):
    """A JSON an image; shapes of one label and one `group_id` are one object, and lines and points have no area."""

    name = "labelme"
    per_image = True

    def size(self, files: ImageFiles) -> Size | None:
        """Return the size that the JSON gives."""
        return _size(_read(files))

    def shapes(self, files: ImageFiles) -> tuple[Size, list[Shape]]:
        """Return the shapes of the JSON."""
        file, path = _read(files), files.annotations
        assert path is not None
        size = _size(file) or files.image_size()
        groups: dict[object, list[Outline]] = defaultdict(list)
        for i, shape in enumerate(file.shapes):
            if shape.shape_type in (None, "polygon", "rectangle", "circle", "mask"):
                key = i if shape.group_id is None else shape.group_id
                groups[shape.label, shape.group_id is None, key].append(_outline(shape, size, path, f"shapes[{i}]"))
        return size, [Shape(str(key[0]), _joined(found)) for key, found in groups.items()]  # type: ignore[index]


def _read(files: ImageFiles) -> _File:
    assert files.annotations is not None
    return validated(_File, load_json(files.annotations), files.annotations)


def _size(file: _File) -> Size | None:
    """Return the size that a file gives; old ones do not."""
    return None if file.height is None or file.width is None else (file.height, file.width)


def _joined(outlines: list[Outline]) -> Outline:
    if len(outlines) == 1:
        return outlines[0]
    said = next((o["said"] for o in outlines if "said" in o), None)
    return {**rle.merge(outlines), "said": said}


def _outline(shape: _Shape, size: Size, file: Path, where: str) -> Outline:
    points = shape.points
    if shape.shape_type in (None, "polygon") or (shape.shape_type == "rectangle" and len(points) == 4):
        return polygon(points, size, file, where)
    if len(points) != 2:
        raise DataError(file, f"{where}: a {shape.shape_type} of {len(points)} points, not 2", "correct or remove it")
    (x0, y0), (x1, y1) = points
    if shape.shape_type == "circle":
        radius = math.hypot(x1 - x0, y1 - y0)
        return polygon(ellipse((x0, y0), (radius, radius)), size, file, where)
    if shape.shape_type == "rectangle":
        return polygon([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], size, file, where)
    return bitmap(_mask(shape, file, where, size), (round(y0), round(x0)), size, file, where)


def _mask(shape: _Shape, file: Path, where: str, size: Size) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape.mask or "", validate=True))) as image:
            if image.size[0] > 2 * size[1] or image.size[1] > 2 * size[0]:
                raise ValueError(f"it is {image.size[0]}x{image.size[1]}")
            return np.asarray(image.convert("L")) > 0
    except (*BROKEN, binascii.Error) as e:
        raise DataError(
            file, f"{where}.mask: no PNG of a bitmap ({reason(e)})", "draw the object again or remove it"
        ) from None
