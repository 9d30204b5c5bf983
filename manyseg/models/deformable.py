"""Mask2Former's pixel decoder: an encoder of deformable attention over several levels, then a feature pyramid.

Source: Cheng, Misra, Schwing, Kirillov, Girdhar, "Masked-attention Mask Transformer for Universal Image Segmentation"
(CVPR 2022); the attention is that of Zhu et al., "Deformable DETR" (ICLR 2021).

Axes: B images, C channels, N pixels of all levels, M heads, K levels, P points, h w resolution of a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg.errors import UserError

__all__ = ["DeformablePyramid", "sine_positions"]

LEVELS, LAYERS, HEADS, POINTS, GROUPS = 3, 6, 8, 4, 32
"""Levels that attend to each other, layers of it, heads, points of a head on a level, and groups of norms."""


class DeformablePyramid(nn.Module):
    """Levels of a backbone to one embedding map at the finest stride, and the levels that the attention made.

    The last three levels (of fewer, all but the finest) attend to each other; finer ones are added as in a feature
    pyramid. `inputs` are the levels' channels, fine to coarse.
    """

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        count = min(LEVELS, len(inputs) - 1)
        if count < 1:
            raise UserError("model.neck is 'deformable', which needs several levels; set model.features = \"pyramid\"")
        self.count = count
        # Coarse to fine.
        self.inputs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1), _norm(channels)) for c in inputs[: -count - 1 : -1]
        )
        self.level = nn.Parameter(torch.randn(count, channels))
        self.layers = nn.ModuleList(_Layer(channels, count) for _ in range(LAYERS))
        finer = inputs[:-count][::-1]
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), _norm(channels)) for c in finer
        )
        self.smooths = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False), _norm(channels), nn.ReLU(inplace=True)
            )
            for _ in finer
        )
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, levels: Sequence[Float[Tensor, "B _ _ _"]]) -> tuple[Tensor, list[Float[Tensor, "B C _ _"]]]:
        """Return the embedding, and the levels that attended to each other, fine to coarse."""
        coarse = [project(x) for project, x in zip(self.inputs, levels[::-1], strict=False)]
        sizes = [(x.shape[-2], x.shape[-1]) for x in coarse]
        places = [sine_positions(x) + self.level[k][:, None, None] for k, x in enumerate(coarse)]
        flat = torch.cat([x.flatten(2).transpose(1, 2) for x in coarse], 1)
        place = torch.cat([p.flatten(1).T for p in places])
        centres = torch.cat([_centres(h, w, flat) for h, w in sizes])
        for layer in self.layers:
            flat = layer(flat, place, centres, sizes)
        parts = torch.split(flat, [h * w for h, w in sizes], 1)
        attended = [p.transpose(1, 2).reshape(p.shape[0], -1, h, w) for p, (h, w) in zip(parts, sizes, strict=True)]
        finest = attended[-1]
        finer = levels[: -self.count][::-1]
        for lateral, smooth, level in zip(self.laterals, self.smooths, finer, strict=True):
            own = lateral(level)
            finest = smooth(own + F.interpolate(finest, size=own.shape[-2:], mode="bilinear", align_corners=False))
        return self.out(finest), attended[::-1]


class _Layer(nn.Module):
    """Deformable attention of every pixel to all levels, and a feed-forward layer, each before a norm (post-norm)."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.heads = math.gcd(HEADS, channels)
        self.offsets = nn.Linear(channels, self.heads * levels * POINTS * 2)
        self.weights = nn.Linear(channels, self.heads * levels * POINTS)
        self.value, self.projection = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self._start()

    def _start(self) -> None:
        """Let every head look into a direction of its own, at the distances 1 to 4 (Deformable DETR)."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        distances = torch.arange(1.0, POINTS + 1)
        levels = self.weights.out_features // (self.heads * POINTS)
        start = (directions[:, None, None] * distances[:, None]).expand(-1, levels, -1, -1)
        with torch.no_grad():
            self.offsets.bias.copy_(start.flatten())
        nn.init.zeros_(self.offsets.weight)
        for linear in (self.weights, self.value, self.projection):
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.weights.weight)
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.xavier_uniform_(self.projection.weight)

    def forward(
        self,
        x: Float[Tensor, "B N C"],
        place: Float[Tensor, "N C"],
        centres: Float[Tensor, "N 2"],
        sizes: Sequence[tuple[int, int]],
    ) -> Float[Tensor, "B N C"]:
        x = self.norm1(x + self._attend(x, x + place, centres, sizes))
        return cast(Tensor, self.norm2(x + self.fc2(F.relu(self.fc1(x)))))

    def _attend(
        self, x: Tensor, queries: Tensor, centres: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "B N C"]:
        batch, pixels, channels = x.shape
        shape = (batch, pixels, self.heads, len(sizes), POINTS)
        offsets = self.offsets(queries).view(*shape, 2)
        weights = self.weights(queries).view(*shape[:3], -1).softmax(-1).view(shape)
        values = torch.split(self.value(x), [h * w for h, w in sizes], 1)
        total = x.new_zeros(batch * self.heads, channels // self.heads, pixels)
        for k, ((h, w), value) in enumerate(zip(sizes, values, strict=True)):
            # Offsets are in pixels of the level; -1 to 1 is the level from border to border.
            moved = torch.stack([offsets[:, :, :, k, :, 0] / w, offsets[:, :, :, k, :, 1] / h], -1)
            where = 2 * (centres[:, None, None] + moved) - 1
            maps = value.transpose(1, 2).reshape(batch * self.heads, -1, h, w)
            grid = where.transpose(1, 2).reshape(batch * self.heads, pixels, POINTS, 2).to(maps.dtype)
            seen = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            weight = weights[:, :, :, k].transpose(1, 2).reshape(batch * self.heads, 1, pixels, POINTS)
            total = total + (seen * weight).sum(-1)
        return cast(Tensor, self.projection(total.view(batch, channels, pixels).transpose(1, 2)))


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


def _centres(height: int, width: int, like: Tensor) -> Float[Tensor, "N 2"]:
    """Return the (x, y) of all pixels' centres, from 0 to 1 over the level."""
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1).flatten(0, 1)


def sine_positions(level: Float[Tensor, "B C h w"]) -> Float[Tensor, "C h w"]:
    """Return sines and cosines of both coordinates of a level's pixels, as DETR has them (normalised)."""
    channels, height, width = level.shape[1:]
    half = -(-channels // 2)
    exponent = 2 * (torch.arange(half, device=level.device) // 2) / half
    rates = (10000**exponent).to(level.dtype)
    codes = []
    for length in (height, width):
        along = torch.arange(1, length + 1, device=level.device, dtype=level.dtype)
        angles = (along / (length + 1e-6) * 2 * math.pi)[:, None] / rates
        even = torch.arange(half, device=level.device) % 2 == 0
        codes.append(torch.where(even, angles.sin(), angles.cos()).T)
    down = codes[0][:, :, None].expand(-1, -1, width)
    across = codes[1][:, None].expand(-1, height, -1)
    return torch.cat([down, across])[:channels]
