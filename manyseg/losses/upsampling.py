"""The sum of a pixel loss over upsampled scores, in bands of bounded memory: of all pixels, or of the hardest.

Scores live at feature resolution, labels at native size. A pixel loss is a function of one band of rows of the
bilinearly upsampled scores; `upsampled_sum` adds it up over an image so that nothing of size D x H x W is ever held.

Axes: B images, D classes (or channels that compete), R rows of a band, h w feature resolution, H W native size, K
single pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from manyseg.labels import IGNORE

__all__ = ["PixelLoss", "hardest_sum", "upsampled_sum"]

BAND_BYTES = {"cpu": 4 << 20, "cuda": 64 << 20}
"""Size of one band of upsampled scores, by device: a processor's cache, or enough to hide a kernel's launch."""

BLOCK = 128
"""Columns that are interpolated at once, which bounds the cells that each is a sum over."""

PixelLoss: TypeAlias = Callable[[Float[Tensor, "B D R W"], Tensor], Float[Tensor, "B R W"]]
"""Maps R rows of upsampled scores and the same rows of the target to the loss of each pixel.

It must give 0, with a zero gradient, where there is no supervision. No gradient flows to anything else that it reads.
"""


def upsampled_sum(
    scores: Float[Tensor, "B D h w"], target: Tensor, pixel_loss: PixelLoss, align_corners: bool = False
) -> Float[Tensor, ""]:
    """Return the SUM of a pixel loss over scores upsampled to the size of the target's last two axes.

    Upsampling is bilinear, with half-pixel centres unless `align_corners`, and none where the sizes are equal. The
    gradient with respect to `scores` is computed band by band together with the value, so backward only scales it:
    memory is a few times `BAND_BYTES` beside one float32 copy of `scores`. Under autocast too it is computed in
    float32; the host never waits for the device. It cannot be differentiated twice; only `scores` get a gradient.
    """
    with _without_autocast(scores):
        if torch.is_grad_enabled() and scores.requires_grad:
            total: Tensor = _UpsampledSum.apply(scores, target, pixel_loss, align_corners)
            return total
        bands = _bands(scores, target, align_corners)
        return torch.stack([pixel_loss(up, part).sum() for _, up, part in bands]).sum()


def hardest_sum(
    scores: Float[Tensor, "B D h w"],
    labels: Int[Tensor, "B H W"],
    pixel_loss: PixelLoss,
    least: float,
    share: int,
    align_corners: bool = False,
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Return the sum that `upsampled_sum` gives, of the hardest pixels alone, and their number.

    These are the labelled pixels whose loss is at least `least`; where fewer than one in `share` of the labelled pixels
    are, so many with the largest losses. The scores are upsampled once: pixels below `least` that are needed are
    interpolated one by one.
    """
    with _without_autocast(scores):
        differentiates = torch.is_grad_enabled() and scores.requires_grad
        total, count = _HardestSum.apply(scores, labels, pixel_loss, (least, share), align_corners, differentiates)
        return total, count


class _UpsampledSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, target: Tensor, pixel_loss: PixelLoss, align_corners: bool) -> Tensor:
        grad = torch.zeros_like(scores, dtype=_at_least_float32(scores))
        total = grad.new_zeros(())
        with torch.enable_grad():
            for source, up, part in _bands(scores.detach(), target, align_corners, differentiable=True):
                loss = pixel_loss(up, part).sum()
                grad[:, :, source.rows] += torch.autograd.grad(loss, source.scores)[0]
                total += loss.detach()
        ctx.save_for_backward(grad)
        ctx.dtype = scores.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, out: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return (grad * out).to(ctx.dtype), None, None, None


class _HardestSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        labels: Tensor,
        pixel_loss: PixelLoss,
        limits: tuple[float, int],
        align_corners: bool,
        differentiates: bool,
    ) -> tuple[Tensor, Tensor]:
        grad = torch.zeros_like(scores, dtype=_at_least_float32(scores))
        total, every, later = grad.new_zeros(()), list[Tensor](), list[Tensor]()
        with torch.set_grad_enabled(differentiates):
            for source, up, part in _bands(scores.detach(), labels, align_corners, differentiates):
                loss = pixel_loss(up, part)
                every.append(loss.detach().masked_fill(part == IGNORE, -math.inf))
                hard = every[-1] >= limits[0]
                # The few hard pixels of an easy band cost less one by one. On a device the host does not wait for such
                # numbers: there a band is always differentiated whole.
                few = not hard.is_cuda and int(hard.sum()) <= hard.numel() // limits[1]
                later.append(hard & few)
                if not few:
                    chosen = torch.where(hard, loss, 0).sum()
                    total += chosen.detach()
                    if differentiates:
                        grad[:, :, source.rows] += torch.autograd.grad(chosen, source.scores)[0]
        losses = torch.cat(every, 1).flatten()
        count, pixels = (losses >= limits[0]).sum(), _positions(torch.cat(later, 1).flatten())
        counts = torch.ones_like(pixels, dtype=torch.bool)
        wanted = ((losses > -math.inf).sum() // limits[1]).clamp(min=1)
        if losses.is_cuda or count < wanted:
            largest, place = losses.topk(max(1, len(losses) // limits[1]))
            rank = torch.arange(len(place), device=losses.device)
            more = (rank >= count) & (rank < wanted) & (largest > -math.inf)
            pixels, counts, count = torch.cat([pixels, place]), torch.cat([counts, more]), count + more.sum()
        if len(pixels):
            single = _SinglePixels(scores.detach(), labels, align_corners)
            total += single.add_sum(pixels, counts, pixel_loss, grad if differentiates else None)
        ctx.save_for_backward(grad)
        ctx.dtype = scores.dtype
        ctx.mark_non_differentiable(count)
        return total, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, out: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (grad,) = ctx.saved_tensors
        return (grad * out).to(ctx.dtype), None, None, None, None, None


def _positions(mask: Bool[Tensor, " N"]) -> Int[Tensor, " K"]:
    """List the true entries; none on a device, whose masks are empty here, and for which the host would wait."""
    return torch.empty(0, dtype=torch.long, device=mask.device) if mask.is_cuda else mask.nonzero()[:, 0]


class _SinglePixels:
    """Scores interpolated at single pixels of the image, exactly where bands have them."""

    def __init__(self, scores: Float[Tensor, "B D h w"], labels: Int[Tensor, "B H W"], align_corners: bool) -> None:
        self.shape, self.labels, self.align_corners = scores.shape, labels, align_corners
        self.cells = scores.to(_at_least_float32(scores)).movedim(1, -1).flatten(0, 2)
        """One row of scores for each cell of the map."""

    def add_sum(
        self,
        pixels: Int[Tensor, " K"],
        counts: Bool[Tensor, " K"],
        pixel_loss: PixelLoss,
        grad: Float[Tensor, "B D h w"] | None,
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses of those `pixels` that count, and add its gradient to `grad`."""
        total, added = self.cells.new_zeros(()), torch.zeros_like(self.cells) if grad is not None else None
        step = max(1, _band_bytes(self.cells) // (self.cells.shape[1] * self.cells.itemsize))
        for part, kept in zip(torch.split(pixels, step), torch.split(counts, step), strict=True):
            corners = self._corners(part)
            up = torch.stack([self.cells[cell] * weight[:, None] for cell, weight in corners]).sum(0)
            up.requires_grad_(added is not None)
            with torch.set_grad_enabled(added is not None):
                loss = pixel_loss(up.T[None, :, None], self.labels.flatten()[part][None, None])
                chosen = torch.where(kept, loss.flatten(), 0).sum()
            total += chosen.detach()
            if added is not None:
                (rise,) = torch.autograd.grad(chosen, up)
                for cell, weight in corners:
                    added.index_add_(0, cell, rise * weight[:, None])
        if grad is not None and added is not None:
            b, d, h, w = self.shape
            grad += added.view(b, h, w, d).movedim(-1, 1)
        return total

    def _corners(self, pixels: Int[Tensor, " K"]) -> list[tuple[Int[Tensor, " K"], Float[Tensor, " K"]]]:
        """Return the four cells around each pixel, and their weights."""
        (h, w), (height, width) = self.shape[2:], self.labels.shape[1:]
        image, place = pixels // (height * width), pixels % (height * width)
        how = self.align_corners, self.cells.dtype
        across = _between(w, width, place % width, *how)
        return [
            ((image * h + row) * w + column, down * right)
            for row, down in _between(h, height, place // width, *how)
            for column, right in across
        ]


class _Source(NamedTuple):
    """The rows of the feature map from which a band of the image is interpolated."""

    rows: slice
    scores: Float[Tensor, "B D r w"]


def _band_bytes(scores: Tensor) -> int:
    return BAND_BYTES.get(scores.device.type, BAND_BYTES["cuda"])


def _without_autocast(scores: Tensor) -> torch.autocast:
    return torch.autocast(scores.device.type, enabled=False)


def _at_least_float32(scores: Tensor) -> torch.dtype:
    return torch.promote_types(scores.dtype, torch.float32)


def _bands(
    scores: Tensor, target: Tensor, align_corners: bool, differentiable: bool = False
) -> Iterator[tuple[_Source, Tensor, Tensor]]:
    """Yield each band's source, its upsampled rows, and the same rows of the target.

    With `differentiable` the upsampled rows have a graph that starts at the source's scores.
    """
    (h, w), (height, width) = scores.shape[2:], (target.shape[-2], target.shape[-1])
    dtype = _at_least_float32(scores)
    step = max(1, _band_bytes(scores) // max(1, scores.shape[0] * scores.shape[1] * width * dtype.itemsize))
    blocks = [_Part.of(w, width, x, align_corners, scores) for x in _parts(width, BLOCK)] if w != width else []
    for rows in _parts(height, step):
        part = _Part.of(h, height, rows, align_corners, scores) if h != height else None
        cells = rows if part is None else part.cells
        up = scores[:, :, cells].to(dtype)
        source = _Source(cells, up.detach().requires_grad_() if differentiable else up)
        up = source.scores
        # Columns first: a band has more rows than its source.
        if blocks:
            up = torch.cat([up[..., block.cells] @ block.weights.T for block in blocks], -1)
        if part is not None:
            up = part.weights @ up
        yield source, up, target[..., rows, :]


def _parts(pixels: int, step: int) -> Iterator[slice]:
    """Cut an axis into parts of so many pixels."""
    for first in range(0, pixels, step):
        yield slice(first, min(first + step, pixels))


class _Part(NamedTuple):
    """A part of the pixels of one axis, as sums over the cells that they lie between.

    A product with this matrix, most of it zeros, is faster than torch's bilinear kernels: forward and backward take a
    half of their time.
    """

    cells: slice
    weights: Float[Tensor, "pixels cells"]

    @classmethod
    def of(cls, cells: int, pixels: int, part: slice, align_corners: bool, scores: Tensor) -> _Part:
        source = _source(cells, pixels, part, align_corners)
        place, dtype = torch.arange(part.start, part.stop, device=scores.device), _at_least_float32(scores)
        weights = scores.new_zeros(len(place), source.stop - source.start, dtype=dtype)
        for cell, weight in _between(cells, pixels, place, align_corners, dtype):
            weights.scatter_add_(1, (cell - source.start)[:, None], weight[:, None])
        return cls(source, weights)


def _source(cells: int, pixels: int, part: slice, align_corners: bool) -> slice:
    """Return the cells between which a part of the pixels of an axis lies."""
    # In whole numbers, so that host and device agree.
    step, start, unit = _grid(cells, pixels, align_corners)
    first, last = (max(step * i + start, 0) // unit for i in (part.start, part.stop - 1))
    return slice(first, min(last + 2, cells))


def _grid(cells: int, pixels: int, align_corners: bool) -> tuple[int, int, int]:
    """Return a, b, c: pixel i lies at (a i + b) / c of the cells, clamped at 0."""
    return (cells - 1, 0, max(pixels - 1, 1)) if align_corners else (2 * cells, cells - pixels, 2 * pixels)


def _between(
    cells: int, pixels: int, position: Int[Tensor, " K"], align_corners: bool, dtype: torch.dtype
) -> list[tuple[Int[Tensor, " K"], Float[Tensor, " K"]]]:
    """Return the two cells between which pixels lie on one axis, and their weights, which sum to 1."""
    step, start, unit = _grid(cells, pixels, align_corners)
    place = (step * position + start).clamp(min=0)
    first = place // unit
    share = (place - first * unit).to(dtype) / unit
    return [(first, 1 - share), ((first + 1).clamp(max=cells - 1), share)]
