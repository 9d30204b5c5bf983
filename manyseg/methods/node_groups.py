"""The groups of nodes that compete in one dataset: its labels cannot tell the nodes of a group apart.

Axes: D classes of one dataset, U unified nodes, A groups, K groups of one class.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from manyseg import losses
from manyseg.labels import Relation
from manyseg.losses import RelationIndex

__all__ = ["GroupTargets", "NodeGroups"]


class NodeGroups(NamedTuple):
    """The groups of a dataset, as two matrices."""

    nodes: Bool[np.ndarray, "A U"]
    of_class: Bool[np.ndarray, "D A"]
    """The groups that each class may be."""

    @classmethod
    def of(cls, relation: Relation, others: Bool[np.ndarray, " U"]) -> NodeGroups:
        """Group the nodes that belong to the same classes; those of `others` that are of no class are the last group.

        In an exclusive taxonomy the groups are the classes. Classes that share all nodes (MSeg merges some) have the
        same group, classes that share some nodes have several groups each. Groups never overlap, so a softmax over them
        counts every node once.
        """
        # Nodes of no class are most of them where there are many datasets, and are one group.
        own = relation.any(0)
        rest: list[int] = np.flatnonzero(others & ~own).tolist()
        members: dict[tuple[int, ...], list[int]] = {(): rest} if rest else {}
        for u in np.flatnonzero(own).tolist():
            members.setdefault(tuple(np.flatnonzero(relation[:, u]).tolist()), []).append(u)
        keys = sorted(members, key=lambda classes: (not classes, classes))
        nodes = np.zeros((len(keys), relation.shape[1]), bool)
        of_class = np.zeros((len(relation), len(keys)), bool)
        for a, classes in enumerate(keys):
            nodes[a, members[classes]] = True
            of_class[list(classes), a] = True
        return cls(nodes, of_class)

    def targets(self, device: torch.device) -> GroupTargets:
        """Put the groups onto a device."""
        return GroupTargets(
            RelationIndex.of(torch.from_numpy(self.nodes), device),
            losses.padded_lists(torch.from_numpy(self.of_class), min_length=1).to(device),
            torch.from_numpy(self.of_class).float().to(device),
        )


class GroupTargets(NamedTuple):
    """`NodeGroups` on a device."""

    nodes: RelationIndex
    allowed: Int[Tensor, "D K"]
    """The groups of each class as a list; the rest of its row is IGNORE."""
    of_class: Float[Tensor, "D A"]
    """The same as zeros and ones."""
