"""Masks: a raw value a pixel, in an index, colour or instance-id raster."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from manyseg.data.encodings.base import UNKNOWN_VALUE, Encoding, ImageFiles, Regions
from manyseg.data.files import DataError
from manyseg.data.raster import raster_size, read_colors, read_index, value_counts
from manyseg.data.window import Size, size_text
from manyseg.labels import IGNORE
from manyseg.labels.colors import hex_color, parse_color

__all__ = ["MIXTURES", "Color", "Index", "InstanceIds", "count_values"]

UNKNOWN = -2

EDGES = 0.25
"""The part of a mask that edges between classes have, at most."""

MIXTURES = 4
"""So many unknown values along edges are mixtures of others: the mask was drawn smoothly, or resized."""

SMOOTHED = (
    "if they lie along the edges of classes, the mask was smoothed or resized: export it again without smoothing "
    "(nearest pixel), as PNG; else give the values to classes of the card, or list them under `ignore`"
)
NO_INSTANCE = (0, 65535)


def count_values(values: np.ndarray, spelled: Callable[[int], Any] = int) -> tuple[tuple[Any, int], ...]:
    """Count values, most frequent first, each `spelled` as cards do."""
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple((spelled(int(found[i])), int(counts[i])) for i in order)


class _Mask(Encoding):
    """A mask of raw values, each looked up in a table: one gather an image, however many classes there are."""

    needs = frozenset({"mask"})
    least_entries: ClassVar[int] = 1

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("table", "unknown_bytes")}

    def entries(self, value: Any) -> np.ndarray:
        """Return the entries of the table that mean the card's `value`."""
        return np.array([value])

    @cached_property
    def table(self) -> np.ndarray:
        """The class position of every raw value, IGNORE, or UNKNOWN where the card does not name it."""
        dtype = np.int16 if len(self.raw.identified) < 1 << 15 else np.int32
        entries = {value: self.entries(value) for value in self.raw.positions}
        table = np.full(max(self.least_entries, *(int(e.max()) + 1 for e in entries.values())), UNKNOWN, dtype)
        for value, position in self.raw.positions.items():
            table[entries[value]] = position
        return table

    @cached_property
    def unknown_bytes(self) -> bytes:
        """For each value of 8 bits 1 where the card does not know it, else 0."""
        unknown = np.ones(256, np.uint8)
        unknown[: len(self.table)] = self.table[:256] == UNKNOWN
        return unknown.tobytes()

    def check(self, mask: Path, plane: np.ndarray) -> np.ndarray | None:
        """Raise DataError if there are values that the card does not know; return how often each occurs, if counted."""
        if plane.dtype == np.uint8:
            if b"\1" not in bytearray(plane).translate(self.unknown_bytes):
                return None
        elif plane.dtype.itemsize == 2:
            counts = value_counts(plane)
            values = np.flatnonzero(counts)
            known = values[values < len(self.table)]
            if len(known) == len(values) and (self.table[known] != UNKNOWN).all():
                return counts
        unknown = (plane < 0) | (plane >= len(self.table)) | (self.table.take(plane, mode="clip") == UNKNOWN)
        if unknown.any():
            found = count_values(plane[unknown], self.spelled)
            advice = self.advice([value for value, _ in found], bool(unknown.mean() < EDGES))
            raise DataError(mask, "not in the card", advice, found)
        return None

    def advice(self, unknown: list[Any], few: bool) -> str:
        """Say what to do about values that the card does not know, which `few` of the pixels have."""
        return SMOOTHED if few and len(unknown) >= MIXTURES else UNKNOWN_VALUE

    def spelled(self, value: int) -> Any:
        """Spell a value as cards do."""
        return value

    def size(self, files: ImageFiles) -> Size | None:
        """Return the mask's size."""
        assert files.mask is not None
        return raster_size(files.mask, banded=files.banded)


class Index(_Mask):
    """A class value a pixel, 8 or 16 bit, grey or palette; with `instances`, a map of instance numbers beside it."""

    name = "index"
    may_have = frozenset({"instances"})
    kind = "dense"
    limit = 1 << 16

    def read(self, files: ImageFiles) -> Regions:
        """Read the mask, and the identity of its objects."""
        assert files.mask is not None
        wide = max(v for v in self.raw.positions if isinstance(v, int)) > 255
        plane = read_index(files.mask, wide=wide, window=files.window)
        counted = self.check(files.mask, plane)
        if files.instances is not None:
            return self._with_instances(files, plane, files.instances)
        return Regions(plane, self.table, np.ones(len(self.table), bool), counted)

    def _with_instances(self, files: ImageFiles, plane: np.ndarray, path: Path) -> Regions:
        """Cut classes apart by instance value; a region is a pair (instance, class), as the two files need not agree.

        A pixel of no instance is of unknown identity where the card says `thing = true`, else part of its class's
        segment. Decision: where every instance value is its pixel's class value x 256 + a number, as Vistas has it,
        every number is an object, so that 0 is the first object of the class of value 0.
        """
        labels = self.table.take(plane)
        assert files.mask is not None
        raw = read_index(path, wide=True, window=files.window)
        sizes = [raw.shape, labels.shape]
        if files.window is not None:  # A window of both may well be of one size.
            sizes = [raster_size(file, banded=files.banded) for file in (path, files.mask)]
        if sizes[0] != sizes[1]:
            what = f"instances of {size_text(sizes[0])} for a mask of {size_text(sizes[1])} ({files.mask.name})"
            raise DataError(path, what, "give both the size of the image")
        values, compact = np.unique(raw, return_inverse=True)
        width = len(self.raw.identified) + 1
        classes = np.tile(np.arange(IGNORE, width - 1), len(values))
        numbered = raw.max() > 255 and bool((raw >> 8 == plane).all())
        single = np.repeat(numbered | ~np.isin(values, NO_INSTANCE), width)
        known = single | ~self.raw.identified[classes] | (classes == IGNORE)
        return Regions(compact.reshape(raw.shape) * width + (labels + 1), classes, known)


class InstanceIds(_Mask):
    """The class value, or value x 1000 + number for an object."""

    name = "instance_ids"
    kind = "segments"
    limit = 1000
    least_entries = 1000

    def entries(self, value: Any) -> np.ndarray:
        """Return the class itself, which is a group of things, and its objects."""
        return np.array([value, *range(value * 1000, (value + 1) * 1000)]) if value else np.array([0])

    def read(self, files: ImageFiles) -> Regions:
        """Read the mask."""
        assert files.mask is not None
        plane = read_index(files.mask, wide=True, window=files.window)
        counted = self.check(files.mask, plane)
        known = np.ones(len(self.table), bool)
        # A thing without a number is a group; stuff has no number.
        known[:1000] = ~self.raw.identified[self.table[:1000]] | (self.table[:1000] < 0)
        return Regions(plane, self.table, known, counted)


class Color(_Mask):
    """A colour a pixel; class values are "#rrggbb"."""

    name = "color"
    kind = "dense"
    values = "color"

    def entries(self, value: Any) -> np.ndarray:
        """Return the entry of a colour."""
        r, g, b = parse_color(value)
        return np.array([(r << 16) | (g << 8) | b])

    def spelled(self, value: int) -> Any:
        """Spell a colour as cards do."""
        return hex_color(value.to_bytes(3, "big"))

    def advice(self, unknown: list[Any], few: bool) -> str:
        """Say what to do about colours that the card does not know."""
        exchanged = {hex_color(parse_color(c)[::-1]) for c in unknown} <= {str(c).lower() for c in self.raw.positions}
        if exchanged:
            return "red and blue are exchanged, as OpenCV writes them; save the masks as RGB, or write the card's so"
        return super().advice(unknown, few)

    def read(self, files: ImageFiles) -> Regions:
        """Read the mask."""
        assert files.mask is not None
        plane = read_colors(files.mask, files.window)
        self.check(files.mask, plane)
        # A region a class: colours have as many numbers as 24 bits.
        classes = np.arange(IGNORE, len(self.raw.identified))
        return Regions(self.table.take(plane) - IGNORE, classes, np.ones(len(classes), bool))
