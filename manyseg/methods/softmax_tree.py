"""The classifiers of a hierarchy: one softmax over the children of each inner concept, and what labels mean to each.

Axes: D classes of one dataset, U unified nodes, N concepts but the root, K children of a concept, L levels, J channels
of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from manyseg.labels import LabelSpace
from manyseg.labels.hierarchy import Hierarchy
from manyseg.losses import padded_lists

__all__ = ["Classifier", "ClassifierTargets", "classifiers_of", "paths_to_leaves"]


class Classifier(NamedTuple):
    """One softmax over the children of a concept."""

    concept: int
    channels: slice
    """Among the channels of all classifiers: one for each child, in order, then one for void if there is one."""
    children: int
    void: bool
    parent: int | None
    """The position of the parent's classifier; None for the root."""
    position: int
    """The channel of this concept in the parent's classifier, counted from 0."""
    weight: float
    """Factor of its loss."""


def classifiers_of(hierarchy: Hierarchy, void: bool, deeper_weight: float) -> tuple[Classifier, ...]:
    """Assign channels to all classifiers, the root's first; the root has no void, since no label could train it."""
    out: list[Classifier] = []
    at: dict[int, int] = {}
    start = 0
    for concept in hierarchy.inner:
        children, below = len(hierarchy.children(concept)), concept != hierarchy.root
        stop = start + children + (void and below)
        parent = hierarchy.parents[concept] if below else None
        position = hierarchy.children(parent).index(concept) if parent is not None else 0
        place = at[parent] if parent is not None else None
        weight = deeper_weight if below else 1.0
        at[concept] = len(out)
        out.append(Classifier(concept, slice(start, stop), children, void and below, place, position, weight))
        start = stop
    return tuple(out)


def paths_to_leaves(hierarchy: Hierarchy, order: Sequence[int]) -> Int[Tensor, "L U"]:
    """List the positions, in `order`, of the concepts on the path to every leaf; short paths are filled with N."""
    paths = [hierarchy.path(u) for u in range(len(hierarchy.taxonomy.unified))]
    place = {n: i for i, n in enumerate(order)}
    out = torch.full((max(map(len, paths)), len(paths)), len(order))
    for u, path in enumerate(paths):
        out[: len(path), u] = torch.tensor([place[n] for n in path])
    return out


class ClassifierTargets(NamedTuple):
    """What the labels of one dataset mean to one classifier."""

    classifier: Classifier
    allowed: Int[Tensor, "D J"]
    """The channels that class d may be; the rest of its row is IGNORE, and all of it where d has no target here."""
    partly_inside: Bool[Tensor, " D"]
    """True for classes with nodes inside and outside of the concept: their pixels have to pass the gate."""
    gated: bool
    """True if there is any such class."""
    shares: Float[Tensor, "D K"]
    """The weights that the boxes and tags of a class give the children; 0 where it has no target here."""
    outside: Float[Tensor, " D"]
    """1 for classes that have no node within the concept, else 0."""

    @classmethod
    def of(
        cls, hierarchy: Hierarchy, classifier: Classifier, space: LabelSpace, device: torch.device
    ) -> ClassifierTargets | None:
        """Return None if the dataset tells no two children of the concept apart."""
        if not hierarchy.teaches(space, classifier.concept):
            return None
        told = hierarchy.child_targets(space, classifier.concept)
        targets = torch.from_numpy(told.allowed & (told.sure | told.maybe)[:, None])
        return cls(
            classifier,
            padded_lists(targets).to(device),
            torch.from_numpy(told.maybe).to(device),
            bool(told.maybe.any()),
            (targets / targets.sum(1, keepdim=True).clamp(min=1)).to(device),
            torch.from_numpy(~told.allowed.any(1)).float().to(device),
        )
