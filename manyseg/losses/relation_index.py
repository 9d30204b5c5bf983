"""Relations on a device: which unified nodes each class may be, as index lists, and the scores of classes read by them.

A relation is a Boolean matrix `[D, U]` (`manyseg.labels.Relation`); a `RelationIndex` is one prepared for a device.

Axes: B images, D classes, U unified nodes, E true entries of a relation, h w feature resolution.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from manyseg.labels import IGNORE

__all__ = ["RelationIndex", "class_logsumexp", "class_max", "padded_lists"]


class RelationIndex(NamedTuple):
    """A relation of D classes and U nodes on a device: as a matrix, and as the list of its E true entries."""

    matrix: Bool[Tensor, "D U"]
    classes: Int[Tensor, " E"]
    nodes: Int[Tensor, " E"]
    single: bool
    """True where every class has exactly one node; `nodes` then lists them in class order."""

    @classmethod
    def of(cls, relation: Bool[Tensor, "D U"], device: torch.device) -> RelationIndex:
        """List the entries of `relation`; a tensor on the CPU causes no synchronisation with the device."""
        classes, nodes = relation.nonzero().unbind(1)
        single = bool((relation.sum(1) == 1).all())
        return cls(relation.to(device), classes.to(device), nodes.to(device), single)


def class_logsumexp(scores: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
    """Return `log sum exp` over each class's nodes, in float32; -inf for a class without nodes.

    Log-probabilities of nodes become those of classes: probabilities of nodes add up (MSeg's rule at test time, NLL+).
    The result is finite however far a class lies below the largest score, since each class subtracts its own maximum.
    Time is proportional to the number of true entries of the relation.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).index_select(1, index.nodes)
    if index.single:
        return scores
    with torch.no_grad():
        floor = _largest(scores, index)
    # The maximum is treated as a constant: its gradient cancels between the two terms.
    info = torch.finfo(scores.dtype)
    shifted = (scores - floor.clamp(min=info.min).index_select(1, index.classes)).exp()
    total = torch.zeros_like(floor).index_add(1, index.classes, shifted)
    return floor + total.clamp(min=info.tiny).log()


def class_max(scores: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
    """Return the largest score of each class's nodes; -inf for a class without nodes."""
    scores = scores.index_select(1, index.nodes)
    return scores if index.single else _largest(scores, index)


def _largest(scores: Float[Tensor, "B E h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
    b, _, h, w = scores.shape
    lowest = scores.new_full((b, len(index.matrix), h, w), -math.inf)
    return lowest.scatter_reduce(1, index.classes[:, None, None].expand(b, -1, h, w), scores, "amax")


def padded_lists(mask: Bool[Tensor, "L A"], min_length: int = 0) -> Int[Tensor, "L K"]:
    """List the positions of the true entries of every row; shorter lists than the longest one end in IGNORE."""
    counts = mask.sum(1)
    rows, positions = mask.nonzero().unbind(1)
    place = torch.arange(len(rows), device=mask.device) - (counts.cumsum(0) - counts)[rows]
    lists = torch.full((len(mask), max(min_length, int(counts.max()))), IGNORE, device=mask.device)
    lists[rows, place] = positions
    return lists
