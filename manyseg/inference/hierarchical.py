"""Predictions at any level of a hierarchy: a finer class where it is probable enough, else the class above it.

Axes: B images, N classes of the hierarchy, h w feature resolution, H W native size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from manyseg.labels.hierarchy import Hierarchy

__all__ = ["MIN_PROBABILITY", "deepest"]

MIN_PROBABILITY = 0.5
"""A class is predicted where it is more probable than this; of two that exclude each other, at most one is."""


def deepest(scores: Float[Tensor, "B N h w"], hierarchy: Hierarchy, size: tuple[int, int]) -> Int[Tensor, "B H W"]:
    """Return the deepest class that is more probable than `MIN_PROBABILITY`, or the best one of the first level.

    `scores` are log-probabilities of all classes, up to a constant for each pixel. Probabilities are upsampled to
    `size` (height, width) one class at a time, so that nothing of size N x H x W is held.
    """
    tops = list(hierarchy.children(hierarchy.root))
    relative = (scores - scores[:, tops].logsumexp(1, keepdim=True)).exp()

    def probability(node: int) -> Tensor:
        return F.interpolate(relative[:, node, None], size=size, mode="bilinear", align_corners=False)[:, 0]

    best = probability(tops[0])
    found = torch.full_like(best, tops[0], dtype=torch.long)
    for node in tops[1:]:
        p = probability(node)
        found, best = torch.where(p > best, node, found), torch.maximum(p, best)
    for node in sorted(range(hierarchy.root), key=lambda n: len(hierarchy.path(n))):
        found = torch.where(probability(node) > MIN_PROBABILITY, node, found)
    return found
