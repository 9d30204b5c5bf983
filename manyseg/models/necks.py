"""Necks: feature levels to one embedding map at the stride of the finest level.

The embedding is neither normalised nor activated, so that a method may take dot products, cosines or softmax of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg.models.backbone import Backbone
from manyseg.models.deformable import DeformablePyramid

__all__ = ["NECKS", "Neck"]

Neck: TypeAlias = Literal["fpn", "concat", "linear", "maskformer", "deformable"]

GROUPS = 32
"""Groups of MaskFormer's norms."""


class _Pyramid(nn.Module):
    """A feature pyramid whose levels are summed at stride 4, with pyramid pooling on the coarsest level.

    Lateral 1x1 and top-down sums as in FPN (Lin et al. 2017); pooling in 1, 2, 3 and 6 bins as in PSPNet and UPerNet,
    because what a patch of asphalt or sky is depends on where in the scene it lies, and at stride 32 it is almost
    free; a 3x3 convolution for every coarse level, then a sum at stride 4 (Panoptic FPN, Kirillov et al. 2019) and one
    3x3 convolution. UPerNet's own 3x3 over the concatenated levels costs four times as much.
    """

    # Doubt: with crops of 128x192 one run with the pooling and one without scored alike (0.280 and 0.282 mIoU, 300
    # steps); it is kept for larger scenes, where published decoders gain from it, and for its price of about nothing.
    bins = (1, 2, 3, 6)

    def __init__(self, backbone: Backbone, channels: int) -> None:
        super().__init__()
        width = -(-channels // len(self.bins))
        coarsest = backbone.channels[-1]
        self.laterals = nn.ModuleList(_block(backbone, c, channels, 1) for c in backbone.channels[:-1])
        # No norm here: a pooled map of one bin and one image has no batch statistics.
        self.contexts = nn.ModuleList(nn.Conv2d(coarsest, width, 1) for _ in self.bins)
        self.context = _block(backbone, coarsest + width * len(self.bins), channels, 1)
        self.smooths = nn.ModuleList(_block(backbone, channels, channels, 3) for _ in self.laterals)
        self.fuse = _block(backbone, channels, channels, 3)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        top = levels[-1]
        pooled = [F.relu(conv(_adaptive_pool(top, b))) for conv, b in zip(self.contexts, self.bins, strict=True)]
        path = self.context(torch.cat([top, *(_resize(p, top) for p in pooled)], 1))
        coarse = []
        # Top-down; every path but the finest is smoothed before it is summed up, the finest by `fuse` itself.
        for level, lateral, smooth in zip(
            reversed(levels[:-1]), reversed(self.laterals), reversed(self.smooths), strict=True
        ):
            coarse.append(smooth(path))
            path = lateral(level) + _resize(path, level)
        for level in coarse:
            path = path + _resize(level, path)
        return cast(Tensor, self.out(self.fuse(path)))


class _Concat(nn.Module):
    """HRNetV2's head (Sun et al. 2019): all levels at stride 4, concatenated, 1x1, norm, ReLU, 1x1.

    A 1x1 convolution and a bilinear resize commute, so each level is convolved at its own resolution and the results
    are summed: the same numbers without the concatenated map. The hidden width is the concatenated one, as published,
    but at most 720 (HRNet-W48's), or backbones with wide levels would not fit into memory.
    """

    def __init__(self, backbone: Backbone, channels: int) -> None:
        super().__init__()
        hidden = min(sum(backbone.channels), 720)
        self.joins = nn.ModuleList(nn.Conv2d(c, hidden, 1, bias=False) for c in backbone.channels)
        self.out = nn.Sequential(backbone.norm(hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1))

    def forward(self, levels: list[Tensor]) -> Tensor:
        joined = self.joins[0](levels[0])
        for join, level in zip(self.joins[1:], levels[1:], strict=True):
            joined = joined + _resize(join(level), joined)
        return cast(Tensor, self.out(joined))


class _Linear(nn.Module):
    """Batch norm and one linear layer over all levels, concatenated (Oquab et al. 2024, the linear head).

    As in `_Concat`, each level is convolved at its own resolution, and the results are summed at the finest.
    """

    def __init__(self, backbone: Backbone, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(backbone.norm(c) for c in backbone.channels)
        self.joins = nn.ModuleList(nn.Conv2d(c, channels, 1, bias=i == 0) for i, c in enumerate(backbone.channels))

    def forward(self, levels: list[Tensor]) -> Tensor:
        parts = [join(norm(x)) for join, norm, x in zip(self.joins, self.norms, levels, strict=True)]
        return sum((_resize(part, parts[0]) for part in parts[1:]), start=parts[0])


class _MaskFormerPyramid(nn.Module):
    """MaskFormer's pixel decoder (Cheng et al. 2021): a feature pyramid with group norms and no pooling.

    Its norms do not depend on how many images a step has.
    """

    def __init__(self, backbone: Backbone, channels: int) -> None:
        super().__init__()
        *finer, coarsest = backbone.channels
        self.stem = _grouped(coarsest, channels, 3)
        self.laterals = nn.ModuleList(_grouped(c, channels, 1)[:2] for c in reversed(finer))
        self.smooths = nn.ModuleList(_grouped(channels, channels, 3) for _ in finer)
        self.out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        path = self.stem(levels[-1])
        for level, lateral, smooth in zip(reversed(levels[:-1]), self.laterals, self.smooths, strict=True):
            own = lateral(level)
            path = smooth(own + F.interpolate(path, size=own.shape[-2:], mode="nearest"))
        return cast(Tensor, self.out(path))


def _grouped(inputs: int, outputs: int, size: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(math.gcd(GROUPS, outputs), outputs), nn.ReLU(inplace=True))


NECKS: dict[str, Callable[[Backbone, int], nn.Module]] = {
    "fpn": _Pyramid,
    "concat": _Concat,
    "linear": _Linear,
    "maskformer": _MaskFormerPyramid,
    "deformable": lambda backbone, channels: DeformablePyramid(backbone.channels, channels),
}


def _block(backbone: Backbone, inputs: int, outputs: int, size: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(conv, backbone.norm(outputs), nn.ReLU(inplace=True))


def _adaptive_pool(level: Float[Tensor, "B C h w"], bins: int) -> Float[Tensor, "B C bins bins"]:
    """Average over `bins` x `bins` parts, as torch's adaptive pooling divides a map; parts may share a row or column.

    In a network that is being exported as products of matrices, which take maps of any size there.
    """
    if torch.compiler.is_compiling():
        return _parts(level, -2, bins) @ level @ _parts(level, -1, bins).T
    return F.adaptive_avg_pool2d(level, bins)


def _parts(level: Tensor, axis: int, bins: int) -> Float[Tensor, "bins _"]:
    """Return the weight of every position of an axis in the mean of every part."""
    length = level.shape[axis]
    part, position = torch.arange(bins, device=level.device)[:, None], torch.arange(length, device=level.device)
    start, stop = part * length // bins, ((part + 1) * length + bins - 1) // bins
    inside = ((position >= start) & (position < stop)).to(level.dtype)
    return inside / inside.sum(1, keepdim=True)


def _resize(source: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(source, size=like.shape[-2:], mode="bilinear", align_corners=False)
