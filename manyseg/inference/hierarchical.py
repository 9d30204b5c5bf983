"""Predictions at any level of a hierarchy: a finer class where it is probable enough, else the class above it.

Axes: B images, N classes of the hierarchy, h w feature resolution, H W native size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manyseg.inference.label_maps import label_map
from manyseg.inference.options import Size
from manyseg.labels.hierarchy import Hierarchy

__all__ = ["MIN_PROBABILITY", "deepest"]

MIN_PROBABILITY = 0.5
"""A class is predicted where it is more probable than this; of two that exclude each other, at most one is."""


def deepest(
    scores: Float[Tensor, "B N h w"], hierarchy: Hierarchy, size: Size, align_corners: bool = False
) -> Int[Tensor, "B H W"]:
    """Return the deepest class that is more probable than `MIN_PROBABILITY`, or the best one of the first level.

    `scores` are log-probabilities of all classes, up to a constant for each pixel. Probabilities are upsampled to
    `size` (height, width) as `label_map` says: where a class is the deepest at four cells, no deeper one is probable
    enough at any of them, nor between them, and none of its level can be as probable as it is.
    """
    tops = torch.tensor(hierarchy.children(hierarchy.root), device=scores.device)
    relative = (scores - scores[:, tops].logsumexp(1, keepdim=True)).exp()
    # A class comes after all that hold it: the last one that is probable enough is the deepest.
    order = torch.tensor(sorted(range(hierarchy.root), key=lambda n: len(hierarchy.path(n))), device=scores.device)
    rank = relative.new_zeros(len(order))
    rank[order] = torch.arange(1, len(order) + 1, dtype=rank.dtype, device=scores.device)

    def decide(probability: Float[Tensor, "P N"]) -> Int[Tensor, " P"]:
        last, found = torch.where(probability > MIN_PROBABILITY, rank, 0).max(1)
        unsure = (last == 0).nonzero().view(-1)
        first_level = probability[unsure[:, None], tops].argmax(1)
        return found.index_copy_(0, unsure, tops[first_level])

    return label_map(relative, size, decide, align_corners)
