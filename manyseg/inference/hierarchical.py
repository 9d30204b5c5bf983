"""Predictions at any level of a hierarchy: a finer concept where the model is sure of it, else the one above.

Axes: B images, N concepts, h w feature resolution, H W native size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from manyseg.labels.hierarchy import Hierarchy

__all__ = ["SURE", "deepest"]

SURE = 0.5
"""A concept is said where it is more probable than this: of two that exclude each other, never both are."""


def deepest(scores: Float[Tensor, "B N h w"], hierarchy: Hierarchy, size: tuple[int, int]) -> Int[Tensor, "B H W"]:
    """Return the deepest concept that is more probable than `SURE`, or the best one of the first level.

    `scores` are log-probabilities of all concepts, up to a constant for each pixel. Probabilities are upsampled to
    `size` (height, width) one concept at a time, so that nothing of size N x H x W is held.
    """
    tops = list(hierarchy.children(hierarchy.root))
    probability = (scores - scores[:, tops].logsumexp(1, keepdim=True)).exp()

    def up(concept: int) -> Tensor:
        return F.interpolate(probability[:, concept, None], size=size, mode="bilinear", align_corners=False)[:, 0]

    best = up(tops[0])
    found = torch.full_like(best, tops[0], dtype=torch.long)
    for concept in tops[1:]:
        p = up(concept)
        found, best = torch.where(p > best, concept, found), torch.maximum(p, best)
    for concept in sorted(range(hierarchy.root), key=lambda n: len(hierarchy.path(n))):
        found = torch.where(up(concept) > SURE, concept, found)
    return found
