"""The label map of an image that is too large for memory: read by windows, given row by row.

Axes: D classes, h w the cells of a window, R rows, H W native size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from manyseg.errors import UserError
from manyseg.inference.encoded_images import EncodedImages, OutputSpace, Predictor, images_at_once
from manyseg.inference.label_maps import argmax_map
from manyseg.inference.options import GRID, Size, TestOptions
from manyseg.inference.windows import cells, starts, weights

__all__ = ["ReadWindow", "check_windows", "label_rows"]

ReadWindow = Callable[[int, int, int, int], UInt8[Tensor, "3 _ _"]]
"""Takes top, left, height and width, and returns these pixels."""

SLAB = 1 << 22
"""Pixels of the label map that are computed at once."""


def label_rows(
    method: Predictor, read: ReadWindow, size: Size, outputs: Sequence[OutputSpace], options: TestOptions
) -> Iterator[list[Int[Tensor, "R W"]]]:
    """Yield the label maps of an image of (height, width) `size` from top to bottom, some rows at a time.

    Each is what `EncodedImages` finds with the same windows; sizes that are no multiples of `GRID` are completed by
    repeating the last row and column, where `EncodedImages` stretches the image. Every window is read once, and scores
    are held for the rows of one window: 4 bytes x D x h x (the cells of the image's width), for each of the spaces.

    Raises UserError as `check_windows` does.
    """
    check_windows(size, options)
    assert options.window is not None
    whole = (math.ceil(size[0] / GRID) * GRID, math.ceil(size[1] / GRID) * GRID)
    window = (min(options.window[0], whole[0]), min(options.window[1], whole[1]))
    tops = starts(whole[0], window[0], options.overlap)
    lefts = starts(whole[1], window[1], options.overlap)
    together = images_at_once(method.device, window)
    bands: list[_Band] = []
    for top, following in zip(tops, [*tops[1:], whole[0]], strict=True):
        for some in (lefts[i : i + together] for i in range(0, len(lefts), together)):
            images = torch.stack([_completed(read, (top, left), window, size) for left in some])
            found = [s.softmax(1).nan_to_num(0.0) for s in EncodedImages(method, images).scores(outputs)]
            bands = bands or [_Band(scores[0], window, whole) for scores in found]
            for band, several in zip(bands, found, strict=True):
                for left, scores in zip(some, several, strict=True):
                    band.add(scores, top, left)
        for maps in zip(*(band.finished(following) for band in bands), strict=True):
            end = bands[0].given - len(maps[0])
            yield [rows[: max(0, size[0] - end), : size[1]] for rows in maps]


def check_windows(size: Size, options: TestOptions) -> None:
    """Raise UserError where the options do not let an image of (height, width) `size` be seen by windows alone."""
    resized = options.max_side is not None or options.short_side is not None
    if options.window is None or options.views != ((1.0, False),) or resized:
        raise UserError(
            f"an image of {size[1]}x{size[0]} pixels is only seen by windows at its own size; "
            "--set test.window=[1024,1024], without test.flip, test.scales, test.max_side and test.short_side"
        )


def _completed(read: ReadWindow, corner: tuple[int, int], window: Size, size: Size) -> UInt8[Tensor, "3 h w"]:
    """Read a window; what lies outside of the image repeats its last row and column."""
    height, width = (min(side, whole - start) for side, whole, start in zip(window, size, corner, strict=True))
    image = read(*corner, height, width)
    missing = (0, window[1] - width, 0, window[0] - height)
    return F.pad(image[None].float(), missing, mode="replicate")[0].byte() if any(missing) else image


class _Band:
    """Sums of the windows' probabilities for the rows of cells that are not finished.

    The first row held is the last finished one: pixels beside it lie between both.
    """

    def __init__(self, scores: Float[Tensor, "D h w"], window: Size, whole: Size) -> None:
        place = (..., slice(0, window[0]), slice(0, window[1]))
        _, (self.rows, columns) = cells(place, scores, whole)
        self.stride = window[0] // scores.shape[1], window[1] // scores.shape[2]
        self.whole, self.weight = whole, weights(scores)
        self.sums = scores.new_zeros(len(scores), scores.shape[1] + 1, columns)
        self.weights = scores.new_zeros(scores.shape[1] + 1, columns)
        self.first = -1
        self.given = 0
        """Rows of the label map that were given."""

    def add(self, scores: Float[Tensor, "D h w"], top: int, left: int) -> None:
        """Add a window's probabilities."""
        start, column = top // self.stride[0] - self.first, left // self.stride[1]
        place = (..., slice(start, start + scores.shape[1]), slice(column, column + scores.shape[2]))
        self.sums[place] += self.weight * scores
        self.weights[place] += self.weight

    def finished(self, top: int) -> Iterator[Int[Tensor, "R W"]]:
        """Yield the rows of the label map above the windows that begin at `top`, all where that is the end."""
        end = top // self.stride[0]
        step = max(1, SLAB // (self.stride[0] * self.whole[1]))
        while self.first < end - 1:
            last = min(end - 1, max(self.first, 0) + step)
            yield self._rows(last)
            self._drop(last - self.first)

    def _rows(self, last: int) -> Int[Tensor, "R W"]:
        """Return the rows of the label map from those given to the middle of a row of cells, or to the end."""
        above = max(self.first, 0)
        held = slice(above - self.first, last + 1 - self.first)
        means = self.sums[:, held] / self.weights[held]
        means = torch.where(means.sum(0, keepdim=True) > 0, means, -math.inf)
        stride, count = self.stride[0], last + 1 - above
        found = argmax_map(means[None], (count * stride, self.whole[1]))[0]
        stop = self.whole[0] if last + 1 == self.rows else (last + 1) * stride - stride // 2
        rows = found[self.given - above * stride : stop - above * stride]
        self.given = stop
        return rows

    def _drop(self, rows: int) -> None:
        """Move the sums up."""
        for held in (self.sums, self.weights):
            held[..., : held.shape[-2] - rows, :] = held[..., rows:, :].clone()
            held[..., held.shape[-2] - rows :, :] = 0
        self.first += rows
