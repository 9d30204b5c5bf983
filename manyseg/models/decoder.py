"""Queries that look at an image and at words: the transformer decoder with category-guided decoding (LMSeg).

Source: Zhou et al., "LMSeg: Language-guided Multi-dataset Segmentation" (ICLR 2023), section 3.4 and table 5. It knows
of no label: words are vectors.

Axes: L blocks, B images, Q queries, T words, C channels, E channels of a pixel's embedding, h w feature resolution.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg.models.pixel_encoder import Features

__all__ = ["Attention", "Decoded", "Guidance", "QueryDecoder"]

Guidance = Literal["image_first", "text_first", "none"]
"""In which order a block's queries look at the image and at the words; `none` leaves the words out."""


class Decoded(NamedTuple):
    """What blocks make of the queries; in training all blocks (L), else the last (L = 1)."""

    queries: Float[Tensor, "L B Q C"]
    """To be compared with classes."""
    masks: Float[Tensor, "L B Q E"]
    """The logit of a query's mask at a pixel is their dot product with the pixel's embedding."""
    embedding: Float[Tensor, "K B E h w"]
    """The pixels' embeddings at stride 4, of every block (K = L), or the same for all (K = 1)."""


class QueryDecoder(nn.Module):
    """Blocks of attention among queries, to the image's coarsest level, and to the words of the dataset.

    `inputs` are the coarsest level's channels, `channels` the queries', `embedding` the pixel embedding's.
    `guidance` is the order of the two cross-attentions (the paper's "visual-text" is image_first).
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        embedding: int,
        *,
        queries: int = 100,
        blocks: int = 6,
        heads: int = 8,
        guidance: Guidance = "image_first",
    ) -> None:
        super().__init__()
        self.guided = guidance != "none"
        # The queries' content itself is learned, and no position is added to it later: with the paper's zero vectors
        # beside a learned position, the first block's self-attention has nothing to mix and learns nothing.
        self.initial_queries = nn.Parameter(torch.randn(queries, channels))
        self.project = nn.Conv2d(inputs, channels, 1)
        self.blocks = nn.ModuleList(_Block(channels, heads, guidance) for _ in range(blocks))
        self.norm = nn.LayerNorm(channels)
        self.mask = nn.Sequential(
            nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels), nn.GELU(),
            nn.Linear(channels, embedding),
        )  # fmt: skip

    def forward(self, features: Features, words: Float[Tensor, "T C"] | None = None) -> Decoded:
        """Decode the queries of every image; `words` may be left out where nothing guides."""
        image = self.project(features.levels[-1])
        place = _sine(image.shape[-2], image.shape[-1], image.shape[1], image.device).to(image.dtype)
        image, place = image.flatten(2).transpose(1, 2), place.flatten(1).T
        # Not len(image): an exported network keeps a shape as a free number, and a length as a constant.
        batch = image.shape[0]
        queries = self.initial_queries.expand(batch, -1, -1)
        text = words[None].expand(batch, -1, -1) if self.guided and words is not None else None
        out = []
        for block in self.blocks:
            queries = block(queries, image, place, text)
            out.append(queries)
        found = self.norm(torch.stack(out if self.training else out[-1:]))
        return Decoded(found, self.mask(found), features.embedding[None])


class _Block(nn.Module):
    """Self-attention, two cross-attentions in either order, and a feed-forward layer, each after a norm (pre-norm)."""

    def __init__(self, channels: int, heads: int, guidance: Guidance) -> None:
        super().__init__()
        self.order = {"image_first": ("image", "text"), "text_first": ("text", "image"), "none": ("image",)}[guidance]
        parts = ("self", *self.order)
        self.norms = nn.ModuleDict({part: nn.LayerNorm(channels) for part in parts})
        self.looks = nn.ModuleDict({part: Attention(channels, heads) for part in parts})
        self.forward_norm = nn.LayerNorm(channels)
        self.forward_layer = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, queries: Tensor, image: Tensor, place: Tensor, text: Tensor | None) -> Tensor:
        seen = self.norms["self"](queries)
        queries = queries + self.looks["self"](seen, seen, seen)
        for part in self.order:
            keys, values = (image + place, image) if part == "image" else (text, text)
            queries = queries + self.looks[part](self.norms[part](queries), keys, values)
        return cast(Tensor, queries + self.forward_layer(self.forward_norm(queries)))


class Attention(nn.Module):
    """Multi-head attention; keys have no bias, which a softmax over keys would cancel."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let queries [B, Q, C] look at keys and values [B, N, C], where a mask [B, 1, Q, N] is true."""
        parts = (self.query(queries), self.key(keys), self.value(values))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in parts)
        found = F.scaled_dot_product_attention(q, k, v, mask)
        return cast(Tensor, self.out(found.transpose(1, 2).flatten(2)))


def _sine(height: int, width: int, channels: int, device: torch.device) -> Float[Tensor, "C h w"]:
    """Return sines and cosines of both coordinates, of whatever number of channels (Carion et al. 2020, normalised)."""
    half = -(-channels // 4)
    rates = 10000 ** (-torch.arange(half, device=device) / half)
    y = (torch.arange(height, device=device) + 0.5) / height * 2 * math.pi
    x = (torch.arange(width, device=device) + 0.5) / width * 2 * math.pi
    down = (rates[:, None] * y)[..., None].expand(-1, -1, width)
    across = (rates[:, None] * x)[:, None].expand(-1, height, -1)
    return torch.cat([down.sin(), down.cos(), across.sin(), across.cos()])[:channels]
