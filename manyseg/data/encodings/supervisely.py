"""Supervisely's JSON: a file an image with bitmaps, polygons with holes, and rectangles."""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from manyseg.data.encodings.base import ImageFiles
from manyseg.data.encodings.drawn import (
    DrawnEncoding,
    Point,
    Schema,
    Shape,
    Side,
    bitmap,
    polygon,
    validated,
)
from manyseg.data.encodings.run_lengths import Outline
from manyseg.data.encodings.schema import load_json
from manyseg.data.files import BROKEN, DataError, reason
from manyseg.data.window import Size

__all__ = ["Supervisely"]

LARGEST = 1 << 27
"""Bytes; a bitmap is a PNG of one bit a pixel, so that no image needs more."""


class _Points(Schema):
    exterior: list[Point] = Field(default=[])
    interior: list[list[Point]] = Field(default=[])


class _Bitmap(Schema):
    data: str
    origin: Annotated[list[Annotated[int, Field(ge=-(1 << 20), le=1 << 20)]], Field(min_length=2, max_length=2)]


class _Object(Schema):
    title: Annotated[str, Field(alias="classTitle")]
    geometry: Annotated[str, Field(alias="geometryType")] = ""
    points: _Points = _Points()
    bitmap: _Bitmap | None = None


class _Extent(Schema):
    height: Side
    width: Side


class _File(Schema):
    size: _Extent
    objects: list[_Object]


class Supervisely(DrawnEncoding):
    """A JSON an image, called like the image with `.json` after it; lines, points and cuboids are left out."""

    name = "supervisely"
    per_image = True

    def size(self, files: ImageFiles) -> Size | None:
        """Return the size that the JSON gives."""
        extent = self._read(files).size
        return extent.height, extent.width

    def shapes(self, files: ImageFiles) -> tuple[Size, list[Shape]]:
        """Return the objects with an area, in the order of the JSON."""
        file, path = self._read(files), files.annotations
        assert path is not None
        size = (file.size.height, file.size.width)
        found = []
        for i, item in enumerate(file.objects):
            outline = _outline(item, size, path, f"objects[{i}]")
            if outline is not None:
                found.append(Shape(item.title, outline))
        return size, found

    def _read(self, files: ImageFiles) -> _File:
        assert files.annotations is not None
        return validated(_File, load_json(files.annotations), files.annotations)


def _outline(item: _Object, size: Size, file: Path, where: str) -> Outline | None:
    geometry = item.geometry or ("polygon" if item.bitmap is None else "bitmap")
    if geometry == "bitmap":
        if item.bitmap is None:
            raise DataError(file, f"{where}.bitmap: is missing", "draw the object again or remove it")
        x, y = item.bitmap.origin
        return bitmap(_inside(item.bitmap.data, size, file, where), (y, x), size, file, where)
    ring = item.points.exterior
    if geometry == "rectangle":
        if len(ring) != 2:
            raise DataError(file, f"{where}: a rectangle of {len(ring)} points, not 2", "correct or remove it")
        (x0, y0), (x1, y1) = ring
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    elif geometry != "polygon":
        return None
    return polygon(ring, size, file, where, item.points.interior)


def _inside(data: str, size: Size, file: Path, where: str) -> np.ndarray:
    """Unpack a bitmap: a PNG, packed by zlib, in base64; its last channel is the object."""
    try:
        png = zlib.decompressobj().decompress(base64.b64decode(data, validate=True), LARGEST)
        with Image.open(io.BytesIO(png)) as image:
            if image.size[0] > 2 * size[1] or image.size[1] > 2 * size[0]:
                raise ValueError(f"it is {image.size[0]}x{image.size[1]}")
            pixels = np.asarray(image.convert("RGBA"))
            # Older files have a palette or grey, newer ones the object in alpha.
            inside: np.ndarray = pixels[..., 3] > 0 if image.mode in ("RGBA", "LA") else pixels[..., :3].max(-1) > 0
            return inside
    except (*BROKEN, binascii.Error) as e:
        raise DataError(
            file, f"{where}.bitmap.data: no packed PNG ({reason(e)})", "draw it again or remove it"
        ) from None
