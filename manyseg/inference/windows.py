"""Windows that cover an image, where their scores lie on the grid of all cells, and how they are blended.

Axes: D classes, h w the cells of a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import EllipsisType
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from manyseg.inference.options import GRID, Size

__all__ = ["Place", "cells", "starts", "weights", "windows"]

Place: TypeAlias = tuple[EllipsisType, slice, slice]
"""An index of rows and columns behind any leading axes."""


def windows(size: Size, window: Size, overlap: float) -> Iterator[Place]:
    """Yield windows that cover an image of (height, width) `size`, row by row; see `starts`."""
    height, width = (min(side, whole) for side, whole in zip(window, size, strict=True))
    for top in starts(size[0], height, overlap):
        for left in starts(size[1], width, overlap):
            yield ..., slice(top, top + height), slice(left, left + width)


def cells(place: Place, scores: Float[Tensor, "*B D h w"], size: Size) -> tuple[Place, Size]:
    """Return where the cells of a window lie among those of an image of this `size`, and how many of these there are.

    Raises ValueError where the scores have another stride than one that divides `GRID`.
    """
    _, rows, columns = place
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    h, w = scores.shape[-2:]
    y, x = high // h, wide // w
    if (h * y, w * x) != (high, wide) or GRID % y or GRID % x:
        raise ValueError(f"scores {h}x{w} of a window {high}x{wide} are on no grid of a stride that divides {GRID}")
    top, left = rows.start // y, columns.start // x
    return (..., slice(top, top + h), slice(left, left + w)), (size[0] // y, size[1] // x)


def weights(scores: Float[Tensor, "*B D h w"]) -> Float[Tensor, "h w"]:
    """Return the weights of a window's cells in the mean over windows: they fall linearly to its border.

    So a window fades into the next one over all of their overlap, and there is no seam.
    """
    rows, columns = (
        torch.minimum(near := torch.arange(n, device=scores.device) + 0.5, n - near) for n in scores.shape[-2:]
    )
    return rows[:, None] * columns


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Place windows from 0 to the border, as evenly as the grid allows; `overlap` is a share of a window."""
    if window >= length:
        return [0]
    step = max(GRID, int((1 - overlap) * window) // GRID * GRID)
    count = math.ceil((length - window) / step) + 1
    return [round(i * (length - window) / (count - 1) / GRID) * GRID for i in range(count)]
