"""Mask queries inside a plain transformer: EoMT.

Source: Kerssies, Cavagnero, Hermans, Norouzi, Averta, Leibe, Dubbelman, de Geus, "Your ViT is Secretly an Image
Segmentation Model" (CVPR 2025).

The queries join the tokens of the last blocks; there is neither pixel decoder nor transformer decoder. While it is
trained a query sees in each of these blocks only the patches within the mask that it had before the block. From block
to block this mask is annealed away, so that a trained network is a plain transformer.

Axes: B images, Q queries, L predictions (one before each block, and the last), T words, C channels, N tokens, h w
patches.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg.models.decoder import Attention, Decoded, Guidance
from manyseg.models.pixel_encoder import Features
from manyseg.models.plain_vit import LayerNorm2d, PlainViT, at_stride_4

__all__ = ["EncoderQueries"]

POWER = 0.9
"""Of the fall of the probability that a query is masked."""


class EncoderQueries(nn.Module):
    """`queries` tokens of their own in the last `blocks` blocks of `trunk`, which gives the tokens before these.

    `guidance` lets the queries look at the words of the dataset too, after each block ("image_first") or before it
    ("text_first"), as LMSeg's decoder does; `heads` are the heads of that attention. `mask_probability` is the
    probability, for each block, that a query is masked there, also in evaluation; a trained network has zeros.
    """

    mask_probability: Tensor
    draws: Tensor

    def __init__(self, trunk: PlainViT, *, queries: int, blocks: int, heads: int, guidance: Guidance) -> None:
        super().__init__()
        channels = trunk.channels
        trunk.hold_back(blocks, queries)
        # In a list, so that the trunk's parameters are the backbone's alone.
        self._trunk = [trunk]
        self.first, self.order = guidance == "text_first", guidance
        self.initial_queries = nn.Parameter(torch.randn(queries, channels))
        self.mask = nn.Sequential(
            nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels), nn.GELU(),
            nn.Linear(channels, channels),
        )  # fmt: skip
        doublings = max(1, round(math.log2(trunk.patch)) - 2)
        self.stride = trunk.patch / 2**doublings
        self.upscale = nn.Sequential(*(_Upscale(channels) for _ in range(doublings)))
        guided = guidance != "none"
        self.words = nn.ModuleList(_Words(channels, heads) for _ in range(blocks if guided else 0))
        self.register_buffer("mask_probability", torch.ones(blocks))
        # In evaluation the masked queries are the same for all images: an image's scores depend on nothing else.
        draws = torch.rand(blocks, queries, generator=torch.Generator().manual_seed(0))
        self.register_buffer("draws", draws, persistent=False)
        # Read on the host in every step, which should not wait for the device.
        self._probability = [1.0] * blocks
        self.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
            lambda module, _: cast(EncoderQueries, module)._read()
        )

    def forward(self, features: Features, words: Float[Tensor, "T C"] | None = None) -> Decoded:
        """Decode the queries of every image from the tokens that the trunk gave (`features.levels`)."""
        (trunk,) = self._trunk
        patches, prefix = features.levels
        batch, grid = patches.shape[0], (patches.shape[-2], patches.shape[-1])
        tokens = [self.initial_queries.expand(batch, -1, -1)]
        tokens += [t.flatten(2).transpose(1, 2) for t in (prefix, patches)]
        queries = tokens[0].shape[1]
        x, before, found = torch.cat(tokens, 1), tokens[0].shape[1] + tokens[1].shape[1], []
        for i, probability in enumerate(self._probability):
            mask = None
            if self.training or probability > 0:
                found.append(self._predict(x, before, grid))
                drawn = torch.rand(batch, queries, device=x.device) if self.training else self.draws[i]
                mask = self._attention_mask(found[-1], x.shape[1], before, grid, drawn <= probability)
            x = self._guided(x, i, words, first=True)
            x = trunk.held_block(i, x, grid, mask)
            x = self._guided(x, i, words, first=False)
        found.append(self._predict(x, before, grid))
        found = found if self.training else found[-1:]
        size = 4 * features.embedding.shape[-2], 4 * features.embedding.shape[-1]
        return Decoded(
            torch.stack([f[0] for f in found]),
            torch.stack([f[1] for f in found]),
            torch.stack([at_stride_4(f[2], self.stride, size) for f in found]),
        )

    def anneal(self, done: float) -> None:
        """Set the probabilities for a training of which the share `done` is behind.

        The authors part it into blocks + 2 equal times: every block in turn falls from 1 to 0 within one of them,
        beginning with the second.
        """
        parts = len(self._probability) + 2
        passed = [min(max(done * parts - 1 - i, 0.0), 1.0) for i in range(len(self._probability))]
        self._probability = [(1 - share) ** POWER for share in passed]
        with torch.no_grad():
            self.mask_probability.copy_(torch.tensor(self._probability), non_blocking=True)

    def _read(self) -> None:
        self._probability = self.mask_probability.tolist()

    def _predict(
        self, x: Float[Tensor, "B N C"], before: int, grid: tuple[int, int]
    ) -> tuple[Float[Tensor, "B Q C"], Float[Tensor, "B Q C"], Float[Tensor, "B C _ _"]]:
        """Return queries, their masks' embeddings, and the patches' embeddings, upscaled."""
        x = self._trunk[0].norm(x)
        queries = x[:, : len(self.initial_queries)]
        return queries, self.mask(queries), self.upscale(x[:, before:].transpose(1, 2).reshape(x.shape[0], -1, *grid))

    @torch.no_grad()
    def _attention_mask(
        self,
        found: tuple[Tensor, Tensor, Tensor],
        tokens: int,
        before: int,
        grid: tuple[int, int],
        masked: Bool[Tensor, "*B Q"],
    ) -> Bool[Tensor, "B 1 N N"]:
        """Let `masked` queries see the patches within their masks, and everything else everything."""
        _, masks, embedding = found
        logits = torch.einsum("bqc,bchw->bqhw", masks, embedding)
        inside = F.interpolate(logits.float(), size=grid, mode="bilinear", align_corners=False).flatten(2) > 0
        batch, queries = inside.shape[:2]
        inside = inside | ~masked[..., None]
        out = torch.ones(batch, tokens, tokens, dtype=torch.bool, device=inside.device)
        out[:, :queries, before:] = inside
        return out[:, None]

    def _guided(self, x: Tensor, block: int, words: Tensor | None, *, first: bool) -> Tensor:
        if words is None or self.order == "none" or first != self.first:
            return x
        queries = x[:, : len(self.initial_queries)]
        return torch.cat([self.words[block](queries, words), x[:, queries.shape[1] :]], 1)


class _Upscale(nn.Module):
    """Twice the resolution: a transposed convolution, GELU, a depthwise convolution and layer norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = LayerNorm2d(channels)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C _ _"]:
        return cast(Tensor, self.norm(self.conv2(F.gelu(self.conv1(x)))))


class _Words(nn.Module):
    """Attention of the queries to the words, after a norm."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.look = Attention(channels, heads)

    def forward(self, queries: Float[Tensor, "B Q C"], words: Float[Tensor, "T C"]) -> Float[Tensor, "B Q C"]:
        text = words[None].expand(queries.shape[0], -1, -1)
        return cast(Tensor, queries + self.look(self.norm(queries), text, text))
