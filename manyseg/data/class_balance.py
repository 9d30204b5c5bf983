"""Images chosen so that rare classes are seen, by one count of the labels of every image.

A class is drawn by its pixels to the power of 1 / temperature, then an image by how many of these pixels it has. At
temperature 1 that is every image by its labelled pixels, far above it all classes are drawn alike. Rare class sampling
of Hoyer et al., "DAFormer" (CVPR 2022, equation 10), has another law of the classes, and images of a class alike.

Axes: P pairs of an image and a class that it has, N draws of an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["ClassBalance", "Walk"]


class Walk(NamedTuple):
    """The images of an epoch in order, and for what class each was drawn; -1 where it was for none."""

    images: Int[Tensor, " N"]
    classes: Int[Tensor, " N"]


class ClassBalance(NamedTuple):
    """How often each image is drawn for each of its classes: `shares` sum to 1."""

    images: Int[Tensor, " P"]
    classes: Int[Tensor, " P"]
    shares: Float[Tensor, " P"]

    @classmethod
    def of(cls, counts: Sequence[Mapping[int, int]], temperature: float) -> ClassBalance:
        """Balance by the `counts` of every image: pixels by class; boxes, or 1 for a tag, where these are the labels.

        An image without a label is never drawn, but where none has any.
        """
        pairs = [(i, c, n) for i, found in enumerate(counts) for c, n in sorted(found.items())]
        if not pairs:
            every = torch.arange(len(counts))
            return cls(every, torch.full_like(every, -1), torch.full((len(counts),), 1 / len(counts)).double())
        images, classes, pixels = np.array(pairs).T
        total = np.bincount(classes, pixels).astype(np.float64)
        wanted = np.where(total > 0, np.maximum(total, 1) ** (1 / temperature), 0)
        shares = (wanted / wanted.sum() / np.maximum(total, 1))[classes] * pixels
        return cls(torch.from_numpy(images), torch.from_numpy(classes), torch.from_numpy(shares))

    def walk(self, draws: int, generator: torch.Generator) -> Walk:
        """Draw an epoch: every pair as often as its share of `draws` says, rounded up or down at random."""
        order = torch.randperm(len(self.shares), generator=generator)
        ends = self.shares[order].cumsum(0)
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        # Systematic sampling: one of each `draws`-th part, at the same place in all of them.
        at = (torch.arange(draws, dtype=torch.float64) + offset) * (ends[-1] / draws)
        found = order[torch.searchsorted(ends, at, right=True).clamp(max=len(order) - 1)]
        found = found[torch.randperm(draws, generator=generator)]
        return Walk(self.images[found], self.classes[found])
