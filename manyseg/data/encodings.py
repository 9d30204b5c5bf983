"""How annotation files spell labels: from the raw values of one image to regions with classes and identity.

Axes: H W pixels, R regions, D classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as rle
from torchvision import tv_tensors

from manyseg.data.annotation import Boxes, Dense, Segments, Tags
from manyseg.data.card import Card, Raw, parse_color
from manyseg.data.files import DataError, Size, read_colors, read_index
from manyseg.data.records import Record
from manyseg.labels import IGNORE

__all__ = ["Regions", "boxes", "paint", "panoptic", "raster", "tags", "value_table"]

UNKNOWN = -2
NO_INSTANCE = (0, 65535)
FIX = "give the value to a class of the card, or list it under `ignore`"


class Regions(NamedTuple):
    """An image cut into regions: `plane` holds each pixel's region, a row of the other two.

    `classes` are positions, or IGNORE. `known` is false where it is unknown which object a pixel belongs to: a crowd,
    or a thing without an instance id. Such regions have a class as Dense, and are ignored as Segments.
    """

    plane: np.ndarray
    classes: np.ndarray
    known: np.ndarray

    def dense(self) -> Dense:
        """Return the class of every pixel."""
        # Gathered narrow, widened after: a third of the time of gathering 64 bits.
        return Dense(tv_tensors.Mask(torch.from_numpy(self.classes.take(self.plane).astype(np.int64))))

    def segments(self, things: np.ndarray) -> Segments:
        """Return one segment a region for classes where Bool[D] `things` is true, else one a class; no empty ones."""
        present = np.bincount(self.plane.ravel(), minlength=len(self.classes)) > 0
        rows = np.flatnonzero(present & self.known & (self.classes != IGNORE))
        classes = self.classes[rows].astype(np.int64)
        # Stuff regions take the key of their class, below all keys of things.
        key = np.where(things[classes], len(things) + np.arange(len(rows)), classes)
        _, first, segment = np.unique(key, return_index=True, return_inverse=True)
        table = np.full(len(self.classes), IGNORE, np.int64)
        table[rows] = segment
        return Segments(tv_tensors.Mask(torch.from_numpy(table[self.plane])), torch.from_numpy(classes[first]))


def value_table(card: Card) -> np.ndarray:
    """Tabulate a raster encoding: the class position of every raw value, IGNORE, or UNKNOWN where no one names it.

    65536 entries for indices, 2^24 for colours: one gather an image, however many classes there are.
    """
    dtype = np.int16 if len(card.classes) < 1 << 15 else np.int32
    table = np.full(1 << 24 if card.encoding == "color" else 1 << 16, UNKNOWN, dtype)
    pairs: list[tuple[Raw, int]] = [*card.positions.items(), *((v, IGNORE) for v in card.ignore)]
    for value, position in pairs:
        if isinstance(value, str):
            r, g, b = parse_color(value)
            table[(r << 16) | (g << 8) | b] = position
        else:
            table[value] = position
            if card.encoding == "instance_ids" and value > 0:
                table[value * 1000 : (value + 1) * 1000] = position
    return table


def raster(card: Card, table: np.ndarray, mask: Path, instances: Path | None) -> Regions:
    """Read an index, colour or instance-id raster; `instances` adds the identity of an index mask's objects."""
    plane = _values(card, mask)
    codes = table.take(plane)  # twice as fast as table[plane]
    if codes.size and codes.min() == UNKNOWN:
        raise DataError(mask, "not in the card", FIX, _counts(card, plane[codes == UNKNOWN]))
    strict = np.array([c.thing is True for c in card.classes.values()])
    if instances is not None:
        return _with_instances(mask, codes, instances, strict)
    known = np.ones(len(table), bool)
    if card.encoding == "instance_ids":
        # A thing without a number is a group; stuff has no number.
        known[:1000] = ~strict[table[:1000]] | (table[:1000] < 0)
    return Regions(plane, table, known)


def _values(card: Card, mask: Path) -> np.ndarray:
    if card.encoding == "color":
        return read_colors(mask)
    numbers = [v for v in (*card.positions, *card.ignore) if isinstance(v, int)]
    return read_index(mask, wide=card.encoding == "instance_ids" or max(numbers) > 255)


def _counts(card: Card, values: np.ndarray) -> tuple[tuple[Any, int], ...]:
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    show = (lambda v: f"#{v:06x}") if card.encoding == "color" else int
    return tuple((show(found[i]), int(counts[i])) for i in order)


def _with_instances(mask: Path, labels: np.ndarray, path: Path, strict: np.ndarray) -> Regions:
    """Cut classes apart by instance value; a region is a pair (instance, class), as the two files need not agree.

    A pixel of no instance is of unknown identity where the card says `thing = true`, else part of its class's segment.
    """
    raw = read_index(path, wide=True)
    if raw.shape != labels.shape:
        what = f"instances of {_by(raw.shape)} for a mask of {_by(labels.shape)} ({mask.name})"
        raise DataError(path, what, "give both the size of the image")
    values = np.flatnonzero(np.bincount(raw.ravel()))
    compact = np.zeros(values[-1] + 1, np.int64)
    compact[values] = np.arange(len(values))
    width = len(strict) + 1
    classes = np.tile(np.arange(IGNORE, width - 1), len(values))
    single = np.repeat(~np.isin(values, NO_INSTANCE), width)
    return Regions(compact[raw] * width + (labels + 1), classes, single | ~strict[classes] | (classes == IGNORE))


def panoptic(card: Card, record: Record, mask: Path) -> Regions:
    """Read a COCO panoptic PNG: the colour r + 256 g + 65536 b is a segment's id, and 0 means no label."""
    color = read_colors(mask)
    ids = ((color & 255) << 16) | (color & 0xFF00) | (color >> 16)
    listed = np.array([0, *(s["id"] for s in record.items)], np.int64)
    classes = np.array([IGNORE, *(_category(card, s["category_id"], mask) for s in record.items)], np.int64)
    known = np.array([True, *(not s.get("iscrowd") for s in record.items)])
    order = np.argsort(listed, kind="stable")
    slot = np.searchsorted(listed[order], ids).clip(max=len(order) - 1)
    missing = listed[order][slot] != ids
    if missing.any():
        fix = "the PNG and the JSON are of different versions; fetch both again"
        raise DataError(mask, "segment id not in the JSON", fix, _counts(card, ids[missing]))
    return Regions(order[slot], classes, known)


def paint(card: Card, record: Record, json: Path, name: str) -> Regions:
    """Paint COCO instances (polygons or RLE): crowds first, then the larger before the smaller.

    Pixels under no object have no label: what is not annotated is not background.
    """
    assert record.size is not None
    height, width = record.size
    masks = []
    for item in record.items:
        mask = _mask(item, height, width, json, name)
        masks.append((not item.get("iscrowd"), -int(mask.sum()), _category(card, item["category_id"], json), mask))
    masks.sort(key=lambda m: m[:2])
    plane = np.zeros((height, width), np.int64)
    for i, (*_, mask) in enumerate(masks, 1):
        plane[mask] = i
    return Regions(
        plane, np.array([IGNORE, *(m[2] for m in masks)], np.int64), np.array([True, *(m[0] for m in masks)])
    )


def _mask(item: Mapping[str, Any], height: int, width: int, json: Path, name: str) -> np.ndarray:
    try:
        outline = item["segmentation"]
        if isinstance(outline, list):
            outline = rle.merge(rle.frPyObjects(outline, height, width))
        elif isinstance(outline["counts"], list):
            outline = rle.frPyObjects(outline, height, width)
        mask: np.ndarray = rle.decode(outline).astype(bool)
    except Exception as e:  # pycocotools raises bare Exception
        raise DataError(json, f"an outline of '{name}' is broken ({e})", "correct or remove it") from None
    if mask.shape != (height, width):
        raise DataError(
            json, f"an outline of '{name}' is {_by(mask.shape)} in an image of {_by((height, width))}", "correct it"
        )
    return mask


def boxes(card: Card, record: Record, file: Path, size: Size) -> Boxes:
    """Read the boxes of an image of `size`; crowds are left out, for their box holds other things too."""
    single = [b for b in record.items if not b.get("iscrowd")]
    classes = [_category(card, b["category_id"], file) for b in single]
    kept = [b["bbox"] for b, c in zip(single, classes, strict=True) if c != IGNORE]
    corners = torch.tensor(kept, dtype=torch.float32).view(-1, 4)
    corners[:, 2:] += corners[:, :2]
    if record.size is None:
        corners *= torch.tensor([size[1], size[0]]).repeat(2)
    return Boxes(corners, torch.tensor([c for c in classes if c != IGNORE], dtype=torch.int64), torch.tensor(size))


def tags(card: Card, record: Record, json: Path) -> Tags:
    """Read an image's tags."""
    classes = {_category(card, t, json) for t in record.items} - {IGNORE}
    return Tags(torch.tensor(sorted(classes), dtype=torch.int64))


def _category(card: Card, value: Any, file: Path) -> int:
    if value in card.positions:
        return card.positions[value]
    if value in card.ignore or card.ignores_others:
        return IGNORE
    what = "tag" if card.kind == "tags" else "category"
    raise DataError(file, f"{what} {value!r} is not in the card", FIX)


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"
