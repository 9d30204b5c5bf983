"""Mask2Former's transformer decoder, with LMSeg's attention to the words.

Source: Cheng, Misra, Schwing, Kirillov, Girdhar, "Masked-attention Mask Transformer for Universal Image Segmentation"
(CVPR 2022).

Axes: B images, Q queries, L predictions (one before each block, and the last), T words, C channels, E channels of a
pixel's embedding, h w resolution of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg.models.decoder import Attention, Decoded, Guidance
from manyseg.models.deformable import sine_positions
from manyseg.models.pixel_encoder import Features

__all__ = ["MaskedDecoder"]

LEVELS = 3
"""Levels that the blocks look at in turn."""


class MaskedDecoder(nn.Module):
    """Blocks in which a query sees the pixels of a level that are within the mask it had before the block.

    The blocks look at the three coarsest levels in turn, the coarsest first; `inputs` are their channels, fine to
    coarse, and `stride` is that of the coarsest. `channels` are the queries', `embedding` the pixel embedding's.
    `guidance` puts an attention to the words after that to the image ("image_first") or before it.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        stride: float,
        channels: int,
        embedding: int,
        *,
        queries: int,
        blocks: int,
        heads: int,
        guidance: Guidance,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.initial_queries = nn.Parameter(torch.randn(queries, channels))
        self.places = nn.Parameter(torch.randn(queries, channels))
        inputs = list(inputs)[-LEVELS:][::-1]
        self.projects = nn.ModuleList(nn.Identity() if c == channels else nn.Conv2d(c, channels, 1) for c in inputs)
        self.level = nn.Parameter(torch.randn(len(inputs), channels))
        self.blocks = nn.ModuleList(_Block(channels, heads, guidance) for _ in range(blocks))
        self.norm = nn.LayerNorm(channels)
        self.mask = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(),
            nn.Linear(channels, embedding),
        )  # fmt: skip

    def forward(self, features: Features, words: Float[Tensor, "T C"] | None = None) -> Decoded:
        """Decode the queries of every image; `words` may be left out where nothing guides."""
        levels = [project(x) for project, x in zip(self.projects, features.levels[::-1], strict=False)]
        images = [(x + self.level[k][:, None, None]).flatten(2).transpose(1, 2) for k, x in enumerate(levels)]
        places = [sine_positions(x).flatten(1).T for x in levels]
        batch = levels[0].shape[0]
        queries = self.initial_queries.expand(batch, -1, -1)
        text = None if words is None else words[None].expand(batch, -1, -1)
        whole = self._whole(features)
        found = [self._predict(queries)]
        for i, block in enumerate(self.blocks):
            k = i % len(levels)
            mask = _attention_mask(found[-1][1], whole, (levels[k].shape[-2], levels[k].shape[-1]))
            queries = block(queries, self.places, images[k], places[k], mask, text)
            found.append(self._predict(queries))
        found = found if self.training else found[-1:]
        return Decoded(torch.stack([f[0] for f in found]), torch.stack([f[1] for f in found]), features.embedding[None])

    def _whole(self, features: Features) -> Float[Tensor, "B E _ _"]:
        """Return the pixel embedding continued to where the levels end, which cover a padded image."""
        top, embedding = features.levels[-1], features.embedding
        down, across = (
            int(cells * self.stride) // 4 - have
            for cells, have in zip(top.shape[-2:], embedding.shape[-2:], strict=True)
        )
        return F.pad(embedding, (0, across, 0, down), mode="replicate") if down or across else embedding

    def _predict(self, queries: Float[Tensor, "B Q C"]) -> tuple[Float[Tensor, "B Q C"], Float[Tensor, "B Q E"]]:
        queries = self.norm(queries)
        return queries, self.mask(queries)


@torch.no_grad()
def _attention_mask(
    masks: Float[Tensor, "B Q E"], embedding: Float[Tensor, "B E _ _"], size: tuple[int, int]
) -> Bool[Tensor, "B 1 Q hw"]:
    """Say which pixels of a level each query sees: those of its mask, or all where it has none."""
    logits = torch.einsum("bqc,bchw->bqhw", masks, embedding)
    inside = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False).flatten(2) >= 0
    return (inside | ~inside.any(-1, keepdim=True))[:, None]


class _Block(nn.Module):
    """Masked attention to the image, to the words, self-attention, feed-forward, each before a norm (post-norm)."""

    def __init__(self, channels: int, heads: int, guidance: Guidance) -> None:
        super().__init__()
        self.order = {"image_first": ("image", "text"), "text_first": ("text", "image"), "none": ("image",)}[guidance]
        parts = (*self.order, "self")
        self.looks = nn.ModuleDict({part: Attention(channels, heads) for part in parts})
        self.norms = nn.ModuleDict({part: nn.LayerNorm(channels) for part in (*parts, "feed")})
        self.fc1, self.fc2 = nn.Linear(channels, 8 * channels), nn.Linear(8 * channels, channels)

    def forward(
        self, queries: Tensor, own: Tensor, image: Tensor, place: Tensor, mask: Tensor, text: Tensor | None
    ) -> Tensor:
        """Return the queries [B, Q, C]; `own` and `place` are the codes of queries and pixels."""
        for part in self.order:
            keys, values, seen = (image + place, image, mask) if part == "image" else (text, text, None)
            queries = self.norms[part](queries + self.looks[part](queries + own, keys, values, seen))
        placed = queries + own
        queries = self.norms["self"](queries + self.looks["self"](placed, placed, queries))
        return cast(Tensor, self.norms["feed"](queries + self.fc2(F.relu(self.fc1(queries)))))
