"""Scores at feature resolution to label maps, and to sums by class, at native size, in bounded memory.

Axes: B images, D classes, h w feature resolution, H W native size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from manyseg.inference.options import Size
from manyseg.labels import IGNORE

__all__ = ["argmax_map", "class_sums", "label_map"]

BAND_PIXELS = 1 << 20
"""Pixels at native size that are processed at once."""

GATHERED = {"cpu": 1 << 17, "cuda": 1 << 26}
"""Scores interpolated at once, by device: about what fits the cache of a CPU, or what keeps a GPU busy."""


def argmax_map(scores: Float[Tensor, "B D h w"], size: Size, align_corners: bool = False) -> Int[Tensor, "B H W"]:
    """Return the argmax of the bilinearly upsampled scores, or IGNORE where the nearest cell excludes every class.

    A class is excluded by -inf; the others follow as `label_map` says.
    """
    return label_map(scores, size, _argmax, align_corners)


def label_map(
    scores: Float[Tensor, "B D h w"],
    size: Size,
    decide: Callable[[Float[Tensor, "P D"]], Int[Tensor, " P"]],
    align_corners: bool = False,
) -> Int[Tensor, "B H W"]:
    """Return what `decide` says of the bilinearly upsampled scores, without upsampling them.

    Interpolation is a convex combination of four cells. `decide` must be such that what it says at all four it says
    between them too: where one class is best at four cells, it is best between them. So only the pixels whose four
    cells disagree are interpolated, in bounded memory. Exact but for ties. A pixel whose nearest cell excludes every
    class (-inf) becomes IGNORE. Pixels have half-pixel centres unless `align_corners`.
    """
    b, d, h, w = scores.shape
    # Cells as rows of D: a pixel's scores are then gathered from four contiguous runs.
    cells = scores.permute(0, 2, 3, 1).reshape(-1, d).contiguous()
    nothing = (cells.amax(1) == -math.inf).view(b, h, w)
    # A constant over all classes does not change an argmax: cells without a class leave the result to the others.
    cells = cells.masked_fill(nothing.view(-1, 1), 0.0).clamp_(min=torch.finfo(cells.dtype).min / 4)
    rows, columns = (_Axis.of(n, side, scores.device, align_corners) for n, side in zip((h, w), size, strict=True))
    # Columns are repeated before rows: rows can then be copied whole.
    agreed = _agreed(decide(cells).view(b, h, w)).index_select(2, columns.before)
    out = agreed.new_empty(b, *size)
    step = max(1, BAND_PIXELS // max(1, b * size[1]))
    for start in range(0, size[0], step):
        band = rows.part(slice(start, start + step))
        part = agreed.index_select(1, band.before)
        out[:, start : start + step] = _interpolated(cells, (h, w), part, band, columns, decide)
    if nothing.any():
        out.masked_fill_(nothing.index_select(2, columns.nearest).index_select(1, rows.nearest), IGNORE)
    return out


def _argmax(scores: Float[Tensor, "P D"]) -> Int[Tensor, " P"]:
    return scores.argmax(1)


def _agreed(best: Int[Tensor, "B h w"]) -> Int[Tensor, "B h w"]:
    """Return the class that is best at a cell and at the next ones down, right and across, or IGNORE if they differ."""
    below = torch.cat([best[:, 1:], best[:, -1:]], 1)
    same = best == below
    for right in (best, below):
        same &= best == torch.cat([right[..., 1:], right[..., -1:]], 2)
    return torch.where(same, best, IGNORE)


def class_sums(
    scores: Float[Tensor, "B D h w"], labels: Int[Tensor, "B H W"], classes: int
) -> Float64[Tensor, "classes D"]:
    """Sum the bilinearly upsampled scores over the pixels of every class, without upsampling them.

    The sum over pixels of a weighted sum over cells is a sum over cells, each weighted by the sum of its weights in the
    class's pixels. Pixels of IGNORE belong to one more class, which is dropped.
    """
    (h, w), (height, width) = scores.shape[-2:], labels.shape[-2:]
    rows, columns = _Axis.of(h, height, scores.device), _Axis.of(w, width, scores.device)
    out = scores.new_zeros(classes, scores.shape[1], dtype=torch.float64)
    for image, truth in zip(scores, labels, strict=True):
        weights = out.new_zeros((classes + 1) * h * w)
        start = torch.where(truth == IGNORE, classes, truth).long() * (h * w)
        for row, down in ((rows.before, 1 - rows.share), (rows.after, rows.share)):
            for column, across in ((columns.before, 1 - columns.share), (columns.after, columns.share)):
                cell = start + row[:, None] * w + column
                weights.scatter_add_(0, cell.flatten(), (down[:, None] * across).double().flatten())
        out += weights.view(classes + 1, h * w)[:classes] @ image.flatten(1).T.double()
    return out


class _Axis:
    """Where the pixels of one axis lie between cells: the cells before and after, and the share of the latter."""

    def __init__(self, before: Tensor, after: Tensor, share: Tensor) -> None:
        self.before, self.after, self.share = before, after, share

    @classmethod
    def of(cls, cells: int, pixels: int, device: torch.device, align_corners: bool = False) -> _Axis:
        # In whole numbers, so that all devices agree.
        i = torch.arange(pixels, device=device)
        if align_corners:
            position, unit = i * (cells - 1), max(pixels - 1, 1)
        else:
            position, unit = ((2 * i + 1) * cells - pixels).clamp(min=0), 2 * pixels
        before = position // unit
        share = (position - before * unit).float() / unit
        return cls(before, (before + 1).clamp(max=cells - 1), share)

    def part(self, band: slice) -> _Axis:
        return _Axis(self.before[band], self.after[band], self.share[band])

    @property
    def nearest(self) -> Tensor:
        return torch.where(self.share < 0.5, self.before, self.after)


def _interpolated(
    cells: Float[Tensor, "cells D"],
    low: Size,
    agreed: Int[Tensor, "B R W"],
    rows: _Axis,
    columns: _Axis,
    decide: Callable[[Float[Tensor, "P D"]], Int[Tensor, " P"]],
) -> Int[Tensor, "B R W"]:
    """Fill in the pixels of IGNORE: interpolate their scores between four cells, and decide."""
    pixels = (agreed == IGNORE).view(-1).nonzero().view(-1)
    found = []
    for pixel in torch.split(pixels, max(1, GATHERED.get(cells.device.type, GATHERED["cuda"]) // cells.shape[1])):
        line, j = pixel // agreed.shape[2], pixel % agreed.shape[2]
        image, i = line // agreed.shape[1], line % agreed.shape[1]
        upper, lower = ((image * low[0] + row[i]) * low[1] for row in (rows.before, rows.after))
        left, right, share = columns.before[j], columns.after[j], columns.share[j][:, None]
        first = torch.lerp(cells[upper + left], cells[upper + right], share)
        second = torch.lerp(cells[lower + left], cells[lower + right], share)
        found.append(decide(torch.lerp(first, second, rows.share[i][:, None])))
    return agreed.view(-1).index_copy_(0, pixels, torch.cat(found)).view_as(agreed)
