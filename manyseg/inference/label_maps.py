"""Scores of a network to a label map at native size: whole image or windows, flip and scales, in bounded memory.

Scores live at feature resolution; nothing of size D x H x W is ever held. This module knows a network only as a
`Scorer`, so evaluation, statistics and prediction share it.

Axes: B images, D classes, h w feature resolution, H W native size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, TypeAlias

import torch
from jaxtyping import Float, Float64, Int, UInt8
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from manyseg.labels import IGNORE

__all__ = ["Scorer", "Size", "TestOptions", "argmax_map", "class_sums", "predict_map", "resize", "score_map"]

Size = tuple[int, int]
"""(height, width) in pixels."""

Scorer: TypeAlias = Callable[[Tensor], Tensor]
"""Maps images [B, 3, H, W], values 0..255, to scores [B, D, h, w]; softmax over D is its belief. -inf excludes."""

BAND_PIXELS = 1 << 20
"""Native pixels whose corners are compared at once."""

GATHERED = {"cpu": 1 << 17, "cuda": 1 << 26}
"""Scores interpolated at once, by device: about a processor's cache, or enough to hide a kernel's launch."""

GRID = 32
"""Windows and their steps are multiples of this many pixels, so that the cells of all windows fall on one grid."""


class TestOptions(BaseModel):
    """How a network is asked at test time; the default is once, on the whole image at native size."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    # pytest collects classes by this name.
    __test__: ClassVar[bool] = False

    window: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    """(height, width) of sliding windows, multiples of 32; None takes the whole image."""
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 1 / 3
    """Share of a window that the next one covers again, at least."""
    flip: bool = False
    """Also ask for the mirrored image."""
    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    """Sizes of the image relative to the native one."""
    max_side: Annotated[int, Field(gt=0)] | None = None
    """Images with a longer side are made smaller before the network sees them; label maps stay at native size."""

    @field_validator("window")
    @classmethod
    def _on_grid(cls, window: Size | None) -> Size | None:
        if window is not None and any(side % GRID for side in window):
            raise ValueError(f"window is {window[0]}x{window[1]}; both sides must be multiples of {GRID}")
        return window

    def input_size(self, native: Size, scale: float = 1.0) -> Size:
        """Return the (height, width) at which the network sees an image of the native size."""
        if self.max_side is not None:
            scale *= min(1.0, self.max_side / max(native))
        grid = 1 if self.window is None else GRID
        return _size(native[0], scale, grid), _size(native[1], scale, grid)


def _size(side: int, scale: float, grid: int) -> int:
    return max(1, math.ceil(round(side * scale) / grid)) * grid


def predict_map(
    score: Scorer,
    image: UInt8[Tensor, "B 3 _ _"],
    options: TestOptions | None = None,
    size: Size | None = None,
) -> Int[Tensor, "B H W"]:
    """Return the best class of every pixel, or IGNORE where every class is excluded.

    `size` is the native size and that of the result, if the images were decoded at a reduced one.
    """
    size = size or (image.shape[-2], image.shape[-1])
    return argmax_map(score_map(score, image, options, size), size)


def score_map(
    score: Scorer,
    image: UInt8[Tensor, "B 3 _ _"],
    options: TestOptions | None = None,
    size: Size | None = None,
) -> Float[Tensor, "B D h w"]:
    """Return scores at feature resolution: the network's own, or its softmax averaged over windows, flips and scales.

    An average lies on the grid of the largest scale: 4 bytes x D x h x w, whatever the native size's memory would be.
    """
    options, size = options or TestOptions(), size or (image.shape[-2], image.shape[-1])
    flips = (False, True) if options.flip else (False,)
    views = [(scale, flip) for scale in sorted(options.scales, reverse=True) for flip in flips]
    if len(views) == 1 and options.window is None:
        return score(resize(image, options.input_size(size, views[0][0]))).float()
    total: Tensor | None = None
    for scale, flip in views:
        view = resize(image, options.input_size(size, scale))
        part = _probabilities(score, view.flip(-1) if flip else view, options)
        part = part.flip(-1) if flip else part
        if total is None:
            total = part
        else:
            total = total + F.interpolate(part, total.shape[-2:], mode="bilinear", align_corners=False)
    assert total is not None
    return torch.where(total.sum(1, keepdim=True) > 0, total / len(views), -math.inf)


def resize(image: UInt8[Tensor, "*B 3 _ _"], size: Size) -> UInt8[Tensor, "*B 3 H W"]:
    """Resize 8-bit images, antialiased; the image itself where nothing is to be done."""
    if tuple(image.shape[-2:]) == size:
        return image
    batch = image if image.ndim == 4 else image[None]
    small = F.interpolate(batch.float(), size, mode="bilinear", align_corners=False, antialias=True)
    small = small.round().clamp(0, 255).to(image.dtype)
    return small if image.ndim == 4 else small[0]


def _probabilities(score: Scorer, image: Tensor, options: TestOptions) -> Float[Tensor, "B D h w"]:
    """Average the softmax over windows; 0 for all classes where all are excluded."""
    if options.window is None:
        return score(image).float().softmax(1).nan_to_num(0.0)
    height, width = image.shape[-2:]
    high, wide = min(options.window[0], height), min(options.window[1], width)
    total: Tensor | None = None
    for top in _starts(height, high, options.overlap):
        for left in _starts(width, wide, options.overlap):
            part = score(image[..., top : top + high, left : left + wide]).float().softmax(1).nan_to_num(0.0)
            (b, d, h, w), (y, x) = part.shape, (high // part.shape[2], wide // part.shape[3])
            if (h * y, w * x) != (high, wide) or GRID % y or GRID % x:
                raise ValueError(
                    f"scores {h}x{w} of a window {high}x{wide} are on no grid of a stride that divides {GRID}"
                )
            if total is None:
                total = part.new_zeros(b, d, height // y, width // x)
                seen = part.new_zeros(height // y, width // x)
            cells = (..., slice(top // y, top // y + h), slice(left // x, left // x + w))
            total[cells] += part
            seen[cells] += 1
    assert total is not None
    return total / seen


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Place windows from 0 to the border, as evenly as the grid allows."""
    if window >= length:
        return [0]
    step = max(GRID, int((1 - overlap) * window) // GRID * GRID)
    count = math.ceil((length - window) / step) + 1
    return [round(i * (length - window) / (count - 1) / GRID) * GRID for i in range(count)]


def argmax_map(scores: Float[Tensor, "B D h w"], size: Size) -> Int[Tensor, "B H W"]:
    """Return the argmax of the bilinearly upsampled scores (half-pixel centres), without upsampling them.

    Interpolation is a convex combination of four cells: where one class is best at all four it is best between them.
    Only the pixels whose four cells disagree are interpolated, in bounded memory. Exact but for ties. A pixel whose
    nearest cell excludes every class (-inf) becomes IGNORE.
    """
    b, d, h, w = scores.shape
    # Cells as rows of D: a pixel's scores are then gathered from four contiguous runs.
    cells = scores.permute(0, 2, 3, 1).reshape(-1, d).contiguous()
    value, index = cells.max(1)
    nothing, best = (value == -math.inf).view(b, h, w), index.view(b, h, w)
    # A constant over all classes decides nothing, so a neighbour without a class leaves the decision to the others.
    cells = cells.masked_fill(nothing.view(-1, 1), 0.0).clamp_(min=torch.finfo(cells.dtype).min / 4)
    rows, columns = _Axis.of(h, size[0], scores.device), _Axis.of(w, size[1], scores.device)
    # Columns are spread before rows: far fewer of these short steps, and rows are then copied whole.
    agreed = _agreed(best).index_select(2, columns.before)
    out = best.new_empty(b, *size)
    step = max(1, BAND_PIXELS // max(1, b * size[1]))
    for start in range(0, size[0], step):
        band = rows.part(slice(start, start + step))
        out[:, start : start + step] = _interpolated(cells, (h, w), agreed.index_select(1, band.before), band, columns)
    if nothing.any():
        out.masked_fill_(nothing.index_select(2, columns.nearest).index_select(1, rows.nearest), IGNORE)
    return out


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

    A sum over pixels of a weighted sum over cells is a sum over cells, weighted by what the class's pixels give each
    cell. Pixels of IGNORE give to one more class, which is dropped.
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
    def of(cls, cells: int, pixels: int, device: torch.device) -> _Axis:
        # Pixel i lies at ((2i + 1) cells - pixels) / 2 pixels: in whole numbers, so that all devices agree.
        position = ((2 * torch.arange(pixels, device=device) + 1) * cells - pixels).clamp(min=0)
        before = (position // (2 * pixels)).clamp(max=cells - 1)
        share = (position - before * 2 * pixels).float() / (2 * pixels)
        return cls(before, (before + 1).clamp(max=cells - 1), share)

    def part(self, band: slice) -> _Axis:
        return _Axis(self.before[band], self.after[band], self.share[band])

    @property
    def nearest(self) -> Tensor:
        return torch.where(self.share < 0.5, self.before, self.after)


def _interpolated(
    cells: Float[Tensor, "cells D"], low: Size, agreed: Int[Tensor, "B R W"], rows: _Axis, columns: _Axis
) -> Int[Tensor, "B R W"]:
    """Fill in the pixels of IGNORE: interpolate their scores between four cells, and take the best class."""
    pixels = (agreed == IGNORE).view(-1).nonzero().view(-1)
    found = []
    for pixel in torch.split(pixels, max(1, GATHERED.get(cells.device.type, GATHERED["cuda"]) // cells.shape[1])):
        line, j = pixel // agreed.shape[2], pixel % agreed.shape[2]
        image, i = line // agreed.shape[1], line % agreed.shape[1]
        upper, lower = ((image * low[0] + row[i]) * low[1] for row in (rows.before, rows.after))
        left, right, share = columns.before[j], columns.after[j], columns.share[j][:, None]
        first = torch.lerp(cells[upper + left], cells[upper + right], share)
        second = torch.lerp(cells[lower + left], cells[lower + right], share)
        found.append(torch.lerp(first, second, rows.share[i][:, None]).argmax(1))
    return agreed.view(-1).index_copy_(0, pixels, torch.cat(found)).view_as(agreed)
