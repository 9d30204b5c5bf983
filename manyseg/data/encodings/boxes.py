"""Boxes and outlines of every source, judged by one rule.

Corners that are swapped and objects that lie outside of the image are errors. What reaches over the image's edge is cut
off, and an object without area is left out, as annotation tools write both; a check says so.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from manyseg.data.encodings.schema import Coordinate
from manyseg.data.window import Size, size_text

__all__ = ["Corners", "Verdict", "judged"]

Corners: TypeAlias = tuple[Coordinate, Coordinate, Coordinate, Coordinate]
"""Four numbers of a box."""

CORRECT = "correct it, or remove the object"


class Verdict(NamedTuple):
    """What is to be said of a box or an outline."""

    severity: Literal["error", "warning"]
    what: str
    fix: str


def judged(x0: float, y0: float, x1: float, y1: float, size: Size, what: str = "box") -> Verdict | None:
    """Judge a box, or the one around an outline, by its corners in pixels, in an image of `size`.

    Returns None if there is nothing to say; `what` is what is judged.
    """
    height, width = size
    if x1 < x0 or y1 < y0:
        return Verdict("error", f"the {what} has a negative side, as if its corners were swapped", CORRECT)
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return Verdict("error", f"the {what} lies outside of the image (of {size_text(size)})", CORRECT)
    if x1 == x0 or y1 == y0:
        return Verdict("warning", f"the {what} has no area, and is left out", CORRECT)
    # Tools round and count from 1, so that a pixel more or less says nothing.
    if min(x0, y0) < -1 or x1 > width + 1 or y1 > height + 1:
        return Verdict(
            "warning", f"the {what} reaches out of the image (of {size_text(size)}), and is cut off", CORRECT
        )
    return None
