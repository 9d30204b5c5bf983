"""CVAT's XML of all images: polygons, boxes, ellipses and run-length masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

import msgspec
import numpy as np
from pydantic import ConfigDict, Field, field_validator

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
from manyseg.data.files import DataError, stream
from manyseg.data.window import Size
from manyseg.errors import UserError

__all__ = ["CvatImages"]

DRAWN = ("polygon", "box", "ellipse", "mask")


class _Text(Schema):
    """Attributes of XML are text: numbers are read from it."""

    model_config = ConfigDict(strict=False, frozen=True)


class _Polygon(_Text):
    points: list[tuple[Coordinate, Coordinate]]

    @field_validator("points", mode="before")
    @classmethod
    def _pairs(cls, text: Any) -> Any:
        return [p.split(",") for p in text.split(";")] if isinstance(text, str) else text


class _Box(_Text):
    xtl: Coordinate
    ytl: Coordinate
    xbr: Coordinate
    ybr: Coordinate
    rotation: Coordinate = 0


class _Ellipse(_Text):
    cx: Coordinate
    cy: Coordinate
    rx: Coordinate
    ry: Coordinate
    rotation: Coordinate = 0


class _Mask(_Text):
    rle: list[Annotated[int, Field(ge=0, le=1 << 40)]]
    left: Annotated[int, Field(ge=-(1 << 20), le=1 << 20)]
    top: Annotated[int, Field(ge=-(1 << 20), le=1 << 20)]
    width: Side
    height: Side

    @field_validator("rle", mode="before")
    @classmethod
    def _numbers(cls, text: Any) -> Any:
        return text.split(",") if isinstance(text, str) else text


class _Image(_Text):
    width: Side
    height: Side


class CvatImages(DrawnEncoding, RecordEncoding[dict[str, Any]]):
    """The XML "CVAT for images 1.1", objects by their z-order; points, lines and skeletons have no area."""

    name = "cvat_images"
    items = msgspec.json.Decoder(list[dict[str, Any]])

    def parse(self, path: Path) -> Iterator[ImageRecord]:
        """Gather the objects of every image, those with a higher `z_order` later."""
        try:
            with stream(path) as file:
                root = ElementTree.parse(file).getroot()
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such annotation file; check the card and the root") from None
        except (OSError, ElementTree.ParseError) as e:
            raise UserError(f"{path}: unreadable or truncated XML ({e}); fetch the file again") from None
        if root.tag != "annotations":
            raise ValueError(f"it is <{root.tag}>, not <annotations>")
        for image in root.iter("image"):
            name = image.attrib["name"]
            extent = validated(_Image, image.attrib, path, f"image '{name}'")
            items = [{"tag": e.tag, **e.attrib} for e in image if e.tag in DRAWN]
            items.sort(key=lambda item: int(item.get("z_order", 0)))
            yield ImageRecord(name, (extent.height, extent.width), msgspec.json.encode(items))

    def size(self, files: ImageFiles) -> Size | None:
        """Return the size that the XML gives the image."""
        return self.record(files).size

    def shapes(self, files: ImageFiles) -> tuple[Size, list[Shape]]:
        """Return the objects of an image, the lowest first."""
        record, path = self.record(files), files.annotations
        assert record.size is not None
        assert path is not None
        found = []
        for i, item in enumerate(record.items):
            where = f"image '{files.name}': {item['tag']} {i}"
            if "label" not in item:
                raise DataError(path, f"{where}: it has no label", "give it one or remove it")
            found.append(Shape(item["label"], _outline(item, record.size, path, where)))
        return record.size, found


def _outline(item: dict[str, Any], size: Size, path: Path, where: str) -> Outline:
    if item["tag"] == "polygon":
        points = validated(_Polygon, item, path, where).points
        return polygon(points, size, path, where)
    if item["tag"] == "box":
        box = validated(_Box, item, path, where)
        corners = [(box.xtl, box.ytl), (box.xbr, box.ytl), (box.xbr, box.ybr), (box.xtl, box.ybr)]
        return polygon(turned(corners, box.rotation), size, path, where)
    if item["tag"] == "ellipse":
        round_ = validated(_Ellipse, item, path, where)
        points_ = ellipse((round_.cx, round_.cy), (round_.rx, round_.ry), round_.rotation)
        return polygon(points_, size, path, where)
    return _mask(validated(_Mask, item, path, where), size, path, where)


def _mask(mask: _Mask, size: Size, path: Path, where: str) -> Outline:
    """Read run lengths, row by row in the mask's box, that begin with pixels outside the object."""
    pixels, total = mask.width * mask.height, sum(mask.rle)
    if total != pixels or mask.width > 2 * size[1] or mask.height > 2 * size[0]:
        what = f"{where}.rle: runs of {total} pixels in a box of {mask.width}x{mask.height}"
        raise DataError(path, what, "draw the object again or remove it")
    inside = np.repeat(np.arange(len(mask.rle)) % 2 == 1, mask.rle).reshape(mask.height, mask.width)
    return bitmap(inside, (mask.top, mask.left), size, path, where)
