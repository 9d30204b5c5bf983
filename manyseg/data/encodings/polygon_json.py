"""A JSON an image with its size and a list of labelled polygons, each drawn over those before it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from manyseg.data.encodings.base import ImageFiles
from manyseg.data.encodings.drawn import DrawnEncoding, Point, Schema, Shape, Side, polygon, validated
from manyseg.data.encodings.schema import load_json
from manyseg.data.window import Size

__all__ = ["PolygonJson"]


class _Object(Schema):
    label: str
    polygon: list[Point]
    deleted: bool | int = False


class _File(Schema):
    height: Annotated[Side, Field(alias="imgHeight")]
    width: Annotated[Side, Field(alias="imgWidth")]
    objects: list[_Object]


class PolygonJson(DrawnEncoding):
    """`imgHeight`, `imgWidth` and `objects`, each a `label` and a `polygon` of points (x, y) in pixels."""

    name = "polygon_json"
    per_image = True

    def size(self, files: ImageFiles) -> Size | None:
        """Return the size that the JSON gives."""
        file = self._read(files)
        return file.height, file.width

    def shapes(self, files: ImageFiles) -> tuple[Size, list[Shape]]:
        """Return the polygons of the JSON; those marked as deleted are left out."""
        file, path = self._read(files), files.annotations
        assert path is not None
        size = (file.height, file.width)
        kept = [(i, o) for i, o in enumerate(file.objects) if not o.deleted]
        return size, [Shape(o.label, polygon(o.polygon, size, path, f"objects[{i}].polygon")) for i, o in kept]

    def _read(self, files: ImageFiles) -> _File:
        assert files.annotations is not None
        return validated(_File, load_json(files.annotations), files.annotations)
