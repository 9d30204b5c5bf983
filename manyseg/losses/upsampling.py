"""The sum of a pixel loss over upsampled scores, in bands of bounded memory.

Scores live at feature resolution, labels at native size. A pixel loss is a function of one band of rows of the
bilinearly upsampled scores; `upsampled_sum` adds it up over an image so that nothing of size D x H x W is ever held.

Axes: B images, D classes (or channels that compete), R rows of a band, h w feature resolution, H W native size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["PixelLoss", "upsampled_losses", "upsampled_sum"]

BAND_BYTES = {"cpu": 4 << 20, "cuda": 64 << 20}
"""Size of one band of upsampled scores, by device: a processor's cache, or enough to hide a kernel's launch."""

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


@torch.no_grad()
def upsampled_losses(
    scores: Float[Tensor, "B D h w"], target: Tensor, pixel_loss: PixelLoss, align_corners: bool = False
) -> Float[Tensor, "B H W"]:
    """Return what `upsampled_sum` adds up, the loss of every pixel, without gradients."""
    with _without_autocast(scores):
        return torch.cat([pixel_loss(up, part) for _, up, part in _bands(scores, target, align_corners)], 1)


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


class _Source(NamedTuple):
    """The rows of the feature map from which a band of the image is interpolated."""

    rows: slice
    scores: Float[Tensor, "B D r w"]


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
    (h, w), size = scores.shape[2:], (target.shape[-2], target.shape[-1])
    dtype = _at_least_float32(scores)
    budget = BAND_BYTES.get(scores.device.type, BAND_BYTES["cuda"])
    step = max(1, budget // max(1, scores.shape[0] * scores.shape[1] * size[1] * dtype.itemsize))
    for top in range(0, size[0], step):
        bottom = min(top + step, size[0])
        rows = slice(top, bottom) if (h, w) == size else _source_rows(h, size[0], top, bottom, align_corners)
        part = scores[:, :, rows].to(dtype)
        source = _Source(rows, part.detach().requires_grad_() if differentiable else part)
        up = source.scores if (h, w) == size else _upsample_rows(source, h, size, top, bottom, align_corners)
        yield source, up, target[..., top:bottom, :]


def _source_rows(h: int, height: int, top: int, bottom: int, align_corners: bool) -> slice:
    # In whole numbers, so that host and device agree.
    step, start, unit = _grid(h, height, align_corners)
    first, last = (max(step * row + start, 0) // unit for row in (top, bottom - 1))
    return slice(first, min(last + 2, h))


def _grid(cells: int, pixels: int, align_corners: bool) -> tuple[int, int, int]:
    """Return a, b, c: pixel i lies at (a i + b) / c of the cells, clamped at 0."""
    return (cells - 1, 0, max(pixels - 1, 1)) if align_corners else (2 * cells, cells - pixels, 2 * pixels)


def _upsample_rows(
    source: _Source, h: int, size: tuple[int, int], top: int, bottom: int, align_corners: bool
) -> Float[Tensor, "B D R W"]:
    """Interpolate rows top..bottom of an image of `size` exactly as `F.interpolate` does on the whole map."""
    height, width = size
    step, start, unit = _grid(h, height, align_corners)
    position = (step * torch.arange(top, bottom, device=source.scores.device) + start).clamp(min=0)
    above = position // unit
    share = (position - above * unit).to(source.scores.dtype) / unit
    below = (above + 1).clamp(max=h - 1)
    first, second = (source.scores.index_select(2, r - source.rows.start) for r in (above, below))
    rows = torch.lerp(first, second, share[:, None])
    return F.interpolate(rows, size=(bottom - top, width), mode="bilinear", align_corners=align_corners)
