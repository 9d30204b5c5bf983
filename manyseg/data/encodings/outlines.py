"""Outlines of objects as COCO has them, polygons and run lengths.

pycocotools' C code trusts its numbers: nothing goes there that was not bounded here.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
import numpy as np
from pycocotools import mask as rle

from manyseg.data.encodings.run_lengths import Outline, unpacked
from manyseg.data.encodings.schema import Coordinate, Fault, Side, shown
from manyseg.data.window import Size, size_text

__all__ = ["RunLengths", "Segmentation", "outline_corners", "outline_faults", "packed"]

LONGEST = 2_000_000
"""Pixels of boundary of a polygon, at most: drawing needs 80 bytes for each."""

CORRECT = "correct or remove the object"


class RunLengths(msgspec.Struct):
    """Lengths of runs of background and object in turn, down the columns: numbers, or COCO's packed text."""

    size: tuple[Side, Side]
    counts: list[Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]] | str


Segmentation: TypeAlias = list[list[Coordinate]] | RunLengths
"""Polygons, each x, y, x, y, ...; or run lengths."""


def outline_faults(outline: Segmentation, size: Size) -> list[Fault]:
    """Say what is wrong with an outline in an image of `size`, without drawing it."""
    if isinstance(outline, RunLengths):
        if outline.size == size:
            return []
        what = f"run lengths of {size_text(outline.size)} in an image of {size_text(size)}"
        return [Fault(f"segmentation.size = {shown(outline.size)}", what, CORRECT)]
    if not outline:
        return [Fault("segmentation = []", "no polygon", CORRECT)]
    out = []
    height, width = size
    for i, polygon in enumerate(outline):
        field = f"segmentation[{i}]"
        if len(polygon) % 2:
            out.append(Fault(field, f"{len(polygon)} numbers are no points x, y", CORRECT))
        elif len(polygon) < 6:
            out.append(Fault(field, f"{len(polygon) // 2} points enclose nothing; 3 are needed", CORRECT))
        elif min(polygon) < -max(size) or max(polygon) > 2 * max(size):
            far = next(v for v in polygon if not -max(size) <= v <= 2 * max(size))
            what = f"a point lies far outside of the image (of {size_text(size)})"
            out.append(Fault(f"{field}[{polygon.index(far)}] = {far:g}", what, CORRECT))
        elif len(polygon) * 3 * (height + width) > LONGEST and _boundary(polygon) > LONGEST:
            out.append(Fault(field, f"its boundary is longer than {LONGEST} pixels", CORRECT))
    return out


def outline_corners(outline: Segmentation) -> tuple[float, float, float, float] | None:
    """Return the box around polygons without faults, (x0, y0, x1, y1); None for run lengths, which fill their image."""
    if isinstance(outline, RunLengths):
        return None
    xs, ys = [p[0::2] for p in outline], [p[1::2] for p in outline]
    return min(map(min, xs)), min(map(min, ys)), max(map(max, xs)), max(map(max, ys))


def _boundary(polygon: list[float]) -> float:
    points = np.array(polygon).reshape(-1, 2)
    return float(np.abs(np.diff(points, axis=0, append=points[:1])).sum())


def packed(outline: Segmentation, size: Size) -> Outline | Fault:
    """Pack an outline without faults, of an image of `size`; run lengths may still turn out not to fill it."""
    if not isinstance(outline, RunLengths):
        joined: Outline = rle.merge(rle.frPyObjects(outline, *size))
        return joined
    counts = unpacked(outline.counts) if isinstance(outline.counts, str) else np.array(outline.counts, np.int64)
    if counts is None:
        return Fault("segmentation.counts", "text that is no packed run lengths", CORRECT)
    pixels = size[0] * size[1]
    # The largest first: many of them could wrap around to the right sum.
    if (len(counts) and not 0 <= counts.min() <= counts.max() <= pixels) or counts.sum() != pixels:
        what = f"run lengths that do not fill an image of {size_text(size)}"
        return Fault("segmentation.counts", what, CORRECT)
    if isinstance(outline.counts, str):
        return {"size": list(size), "counts": outline.counts.encode()}
    found: Outline = rle.frPyObjects({"size": list(size), "counts": outline.counts}, *size)
    return found
