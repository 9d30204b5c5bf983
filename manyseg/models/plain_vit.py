"""Plain vision transformers: maps of their patches, at the network's one stride, and what is made of these.

A plain transformer (ViT, DeiT, DINOv2, DINOv3, SigLIP, CLIP, EVA02, BEiT) has one resolution. The field has three ways
from it to a dense map: the last layer; several layers side by side, as DINOv2's linear head has them; and the simple
feature pyramid of ViTDet.

Axes: B images, C channels, h w patches.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg.errors import UserError

__all__ = ["JOINED", "LayerNorm2d", "PlainViT", "SimplePyramid", "at_stride_4"]

JOINED = 4
"""How many of the last layers `features = "layers"` gives (Oquab et al. 2024, the head of four layers)."""

PYRAMID = (4, 8, 16, 32)
"""Strides of the pyramid's levels for a patch of 16 pixels; other patches give what is nearest to them."""


class PlainViT(nn.Module):
    """A plain transformer of timm as a function from an image to the maps of its last `layers` blocks.

    Every map has the transformer's final norm; register and class tokens take part, and are left out of the maps. Both
    sides of an image are multiples of `patch`; learned position embeddings and tables of relative positions are
    resampled to its number of patches. Classifier and pooling are removed.
    """

    def __init__(self, vit: nn.Module, layers: int = 1) -> None:
        super().__init__()
        info = cast(Any, vit).feature_info[-1]
        self.patch, self.channels, self.layers = int(info["reduction"]), int(info["num_chs"]), layers
        self.held = 0
        # Without what comes after the blocks: a parameter that has no gradient would stop distributed training.
        cast(Any, vit).prune_intermediate_layers(1, prune_head=True)
        self.vit = cast(Any, vit)
        self._tables = _any_number_of_patches(vit)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C h w"]]:
        """Return one map a layer, the last one last; with blocks held back the tokens before them, see `hold_back`."""
        if self.held:
            return self._tokens(image)
        for table in self._tables:
            table.grid = (image.shape[-2] // self.patch, image.shape[-1] // self.patch)
        return cast(
            list[Tensor],
            self.vit.forward_intermediates(image, indices=self.layers, norm=True, intermediates_only=True),
        )

    def hold_back(self, blocks: int, queries: int) -> None:
        """Leave the last `blocks` blocks to a decoder that puts `queries` more tokens before the others.

        From then on `forward` returns the patches before these blocks, without a norm, and the prefix tokens [B, C, 1,
        P]; the decoder calls `held_block` and `norm`. Raises UserError where that cannot be.
        """
        depth = len(self.vit.blocks)
        if not 0 < blocks < depth:
            raise UserError(f"method.blocks is {blocks}; with the decoder 'eomt' give 1 to {depth - 1}")
        last = self.vit.blocks[-blocks:]
        if any("attn_mask" not in inspect.signature(block.forward).parameters for block in last):
            raise UserError(
                "method.decoder is 'eomt', but the blocks of model.backbone take no attention mask; use a ViT, DeiT, "
                "DINOv2, DINOv3, SigLIP, CLIP or EVA02"
            )
        if getattr(self.vit, "rope_mixed", False):
            raise UserError(
                "method.decoder is 'eomt', but model.backbone has rotary positions of its own in each block; use one "
                "that does not, such as vit_small_patch16_dinov3"
            )
        self.held = blocks
        for block in last:
            # These tokens have no place, and are not rotated.
            if hasattr(block.attn, "num_prefix_tokens"):
                block.attn.num_prefix_tokens += queries

    def held_block(
        self, number: int, x: Float[Tensor, "B N C"], grid: tuple[int, int], mask: Bool[Tensor, "B 1 N N"] | None
    ) -> Float[Tensor, "B N C"]:
        """Run a block that is held back on tokens, of which the patches are last; a mask says who sees whom."""
        rope = getattr(self.vit, "rope", None)
        rotary = {} if rope is None else {"rope": rope.get_embed(shape=grid)}
        return cast(Tensor, self.vit.blocks[number - self.held](x, attn_mask=mask, **rotary))

    def norm(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """Apply the final norm."""
        return cast(Tensor, self.vit.norm(x))

    def _tokens(self, image: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C _ _"]]:
        last, prefixed = len(self.vit.blocks) - self.held - 1, bool(self.vit.num_prefix_tokens)
        (found,) = self.vit.forward_intermediates(
            image, indices=[last], return_prefix_tokens=prefixed, stop_early=True, intermediates_only=True
        )
        if not prefixed:
            return [found, found.new_zeros(*found.shape[:2], 1, 0)]
        return [found[0], found[1].transpose(1, 2)[:, :, None]]


class _AnyTable:
    """BEiT's bias of attention by relative position, resampled to the image's number of patches."""

    def __init__(self, owner: Any, axes: int) -> None:
        self.owner, self.axes = owner, axes
        self.grid: tuple[int, int] = tuple(owner.window_size)

    def __call__(self) -> Tensor:
        from timm.models.beit import gen_relative_position_index

        table, index = self.owner.relative_position_bias_table, self.owner.relative_position_index
        own, (h, w) = tuple(self.owner.window_size), self.grid
        if self.grid != own:
            # Three entries are for pairs with the class token; the others are a map of offsets in both directions.
            offsets, classes = table[:-3].T.unflatten(1, (2 * own[0] - 1, 2 * own[1] - 1)), table[-3:]
            size = (2 * h - 1, 2 * w - 1)
            offsets = F.interpolate(offsets[None], size=size, mode="bilinear", align_corners=False)[0]
            table = torch.cat([offsets.flatten(1).T, classes])
            index = gen_relative_position_index(self.grid).to(table.device)
        bias = table[index.flatten()].view(h * w + 1, h * w + 1, -1).permute(2, 0, 1).contiguous()
        return bias[None] if self.axes == 4 else cast(Tensor, bias)


def _any_number_of_patches(vit: nn.Module) -> list[_AnyTable]:
    """Let a BEiT take images of any size, as `dynamic_img_size` does for transformers with position embeddings."""
    tables = []
    for module in vit.modules():
        if getattr(module, "relative_position_bias_table", None) is None:
            continue
        if hasattr(module, "_get_rel_pos_bias"):
            table = _AnyTable(module, 4)
            cast(Any, module)._get_rel_pos_bias = table
        else:  # One table for all blocks.
            table = _AnyTable(module, 3)
            cast(Any, module).forward = table
        tables.append(table)
    if tables:
        cast(Any, vit).patch_embed.strict_img_size = False
    return tables


class SimplePyramid(nn.Module):
    """The simple feature pyramid of ViTDet (Li et al. 2022, section 3): levels of several strides from the last map.

    Finer levels by transposed convolutions, each of half the channels, coarser ones by pooling. For a patch of 16
    pixels the levels have the strides 4, 8, 16 and 32; for 14 pixels 3.5, 7, 14 and 28.
    """

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        nominal = 2 ** round(math.log2(patch))
        self.strides: list[float] = [patch * s / nominal for s in PYRAMID]
        self.channels = [channels // max(1, nominal // s) for s in PYRAMID]
        self.levels = nn.ModuleList(_scaled(channels, nominal, s) for s in PYRAMID)

    def forward(self, maps: Sequence[Float[Tensor, "B C h w"]]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return the levels, fine to coarse."""
        return [level(maps[-1]) for level in self.levels]


def _scaled(channels: int, nominal: int, stride: int) -> nn.Sequential:
    if stride >= nominal:
        return nn.Sequential(nn.MaxPool2d(stride // nominal, ceil_mode=True)) if stride > nominal else nn.Sequential()
    parts: list[nn.Module] = []
    while nominal > stride:
        if parts:
            parts += [LayerNorm2d(channels), nn.GELU()]
        parts.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels, nominal = channels // 2, nominal // 2
    return nn.Sequential(*parts)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of every pixel."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Normalise every pixel."""
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


def at_stride_4(x: Float[Tensor, "B C h w"], stride: float, size: tuple[int, int]) -> Float[Tensor, "B C _ _"]:
    """Resample (bilinear) a map of `stride` to that of stride 4 of an image of `size`, each pixel at its own place."""
    if stride == 4:
        return x[..., : -(-size[0] // 4), : -(-size[1] // 4)]
    # Cells of both grids that end at the same pixel; the map is continued to a multiple of them.
    ratio = (stride / 4).as_integer_ratio()
    more = [-side % ratio[1] for side in x.shape[-2:]]
    if any(more):
        x = F.pad(x, (0, more[1], 0, more[0]), mode="replicate")
    target = (x.shape[-2] // ratio[1] * ratio[0], x.shape[-1] // ratio[1] * ratio[0])
    x = F.interpolate(x, size=target, mode="bilinear", align_corners=False)
    return x[..., : -(-size[0] // 4), : -(-size[1] // 4)]
