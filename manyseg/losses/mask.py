"""Losses of binary masks against segments: focal and dice, at native size in bounded memory, or on sampled points.

Pixels of IGNORE are left out of sums, means and areas: they change neither value nor gradient.

Axes: N masks, ordered by image, B images, h w feature resolution, H W native size, P points or pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from manyseg.labels import IGNORE

__all__ = ["ALPHA", "focal_dice", "focal_terms", "mask_losses", "point_losses"]

ALPHA = 0.25
"""Weight of positive pixels in the focal loss (Lin et al. 2017); negative ones have 1 - ALPHA. Gamma is 2."""

CHUNK = {"cpu": 1 << 19, "cuda": 1 << 24}
"""Native pixels of masks that are upsampled at once, by device."""

OVERSAMPLE, UNCERTAIN = 3, 0.75
"""Of 3 P random points the 0.75 P most uncertain ones are used, and 0.25 P other random ones (Cheng et al. 2022)."""


def focal_terms(logits: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return the focal loss of every pixel in case that it is inside of the true mask, and that it is outside."""
    p = logits.sigmoid()
    inside = ALPHA * (1 - p).square() * F.softplus(-logits)
    outside = (1 - ALPHA) * p.square() * F.softplus(logits)
    return inside, outside


def focal_dice(
    logits: Float[Tensor, "N P"], inside: Bool[Tensor, "N P"], valid: Bool[Tensor, "#N P"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return the focal loss, a mean over valid pixels, and the dice loss `1 - (2 |p m| + 1) / (|p| + |m| + 1)`.

    Both are 0, with a zero gradient, where no pixel is valid.
    """
    p = logits.sigmoid()
    # One softplus for both sides: outside a mask the loss is that of the logit's negative.
    signed = torch.where(inside, logits, -logits)
    wrong = torch.where(inside, 1 - p, p)
    weight = torch.where(inside, ALPHA, 1 - ALPHA) * valid
    focal = (weight * wrong.square() * F.softplus(-signed)).sum(1) / valid.sum(1).clamp(min=1)
    both = (p * (inside & valid)).sum(1)
    area = (p * valid).sum(1) + (inside & valid).sum(1)
    return focal, 1 - (2 * both + 1) / (area + 1)


def mask_losses(
    logits: Float[Tensor, "N h w"], segments: Int[Tensor, " N"], ids: Int[Tensor, "B H W"], counts: Sequence[int]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum the focal and the dice losses of all masks, upsampled (bilinear) to the size of `ids`.

    The target of mask n are the pixels at which its image's `ids` are `segments[n]`; `counts` are the numbers of masks
    of each image. A few masks at a time are upsampled and differentiated, so that nothing of size N x H x W is held.
    """
    return cast(tuple[Tensor, Tensor], _MaskLossSums.apply(logits, segments, ids, tuple(counts)))


class _MaskLossSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, segments: Tensor, ids: Tensor, counts: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        differentiates = ctx.needs_input_grad[0]
        step = max(1, CHUNK.get(ids.device.type, CHUNK["cuda"]) // max(1, ids[0].numel()))
        totals = logits.new_zeros(2, dtype=torch.float32)
        gradients = torch.empty(2, *logits.shape, device=logits.device) if differentiates else None
        first = 0
        for image, count in zip(ids, counts, strict=True):
            for start in range(first, first + count, step):
                part = slice(start, min(start + step, first + count))
                x = logits[part].float().detach().requires_grad_(differentiates)
                with torch.set_grad_enabled(differentiates):
                    native = F.interpolate(x[None], size=image.shape, mode="bilinear", align_corners=False)[0]
                inside = image == segments[part, None, None]
                found, by_pixel = _with_gradients(native.detach(), inside, image != IGNORE, gradients is not None)
                totals += found
                if gradients is not None:
                    gradients[0, part] = torch.autograd.grad(native, x, by_pixel[0], retain_graph=True)[0]
                    gradients[1, part] = torch.autograd.grad(native, x, by_pixel[1])[0]
            first += count
        ctx.gradients, ctx.dtype = gradients, logits.dtype
        return totals[0], totals[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, focal: Tensor, dice: Tensor) -> tuple[Tensor, None, None, None]:
        return (focal * ctx.gradients[0] + dice * ctx.gradients[1]).to(ctx.dtype), None, None, None


def _with_gradients(
    x: Float[Tensor, "N H W"], inside: Bool[Tensor, "N H W"], valid: Bool[Tensor, "H W"], gradients: bool
) -> tuple[Tensor, list[Float[Tensor, "N H W"]]]:
    """Return the sums of `focal_dice` and their gradients at every pixel; autograd would compute all terms twice."""
    axes, n = (1, 2), valid.sum().clamp(min=1)
    p = x.sigmoid()
    wrong = torch.where(inside, 1 - p, p)
    loss = F.softplus(torch.where(inside, -x, x))
    # The weight with the sign of the gradient, which is w * wrong^2 * (2 * right * loss + wrong), right = 1 - wrong.
    signed = torch.where(inside, -ALPHA, 1 - ALPHA) * (valid / n) * wrong.square()
    focal = (signed.abs() * loss).sum()
    mask, seen = inside & valid, p * valid
    top = 2 * (p * mask).sum(axes) + 1
    bottom = seen.sum(axes) + mask.sum(axes) + 1
    sums = torch.stack([focal, (1 - top / bottom).sum()])
    if not gradients:
        return sums, []
    rise = (top / bottom.square())[:, None, None] - mask * (2 / bottom)[:, None, None]
    return sums, [signed * torch.addcmul(wrong, loss, 1 - wrong, value=2), rise * seen * (1 - p)]


def point_losses(
    logits: Float[Tensor, "N h w"],
    segments: Int[Tensor, " N"],
    ids: Int[Tensor, "B H W"],
    counts: Sequence[int],
    points: int,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum the losses as `mask_losses` does, but on `points` random points of each mask, most of them near its border.

    This is Mask2Former's importance sampling (Cheng et al. 2022); memory is N x 3 P whatever the image's size. All
    masks choose among the same points, drawn from `generator`: so they do not depend on how images are divided.
    """
    image = torch.repeat_interleave(torch.arange(len(ids)), torch.tensor(counts)).to(ids.device, non_blocking=True)
    sure = int(UNCERTAIN * points)
    with torch.no_grad():
        tried = shared_points(OVERSAMPLE * points, len(logits), logits.device, generator)
        nearest = sample_bilinear(logits, tried).abs().topk(sure, 1, largest=False).indices
        chosen = tried.gather(1, nearest[..., None].expand(-1, -1, 2))
        others = shared_points(points - sure, len(logits), logits.device, generator)
        place = torch.cat([chosen, others], 1)
        truth = sample_ids(ids, image, place)
    focal, dice = focal_dice(sample_bilinear(logits, place), truth == segments[:, None], truth != IGNORE)
    return focal.sum(), dice.sum()


def shared_points(
    points: int, rows: int, device: torch.device, generator: torch.Generator | None
) -> Float[Tensor, "N P 2"]:
    """Draw places (x, y) from 0 to 1 on the CPU, and return them for each of N rows."""
    drawn = torch.rand(points, 2, generator=generator).to(device, non_blocking=True)
    return drawn.expand(rows, -1, -1)


def sample_bilinear(maps: Float[Tensor, "N h w"], place: Float[Tensor, "N P 2"]) -> Float[Tensor, "N P"]:
    """Interpolate maps bilinearly at places (x, y), which go from 0 to 1 over the image."""
    # Bilinear sampling has no deterministic backward on a GPU; torch warns of it where determinism is asked for.
    grid = 2 * place[:, :, None] - 1
    found = F.grid_sample(maps[:, None].float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found[:, 0, :, 0]


def sample_ids(
    ids: Int[Tensor, "B H W"], image: Int[Tensor, " N"], place: Float[Tensor, "N P 2"]
) -> Int[Tensor, "N P"]:
    """Return the segment of the pixel in which each place (x, y) lies."""
    height, width = ids.shape[-2:]
    x = (place[..., 0] * width).long().clamp(max=width - 1)
    y = (place[..., 1] * height).long().clamp(max=height - 1)
    return ids[image[:, None], y, x]
