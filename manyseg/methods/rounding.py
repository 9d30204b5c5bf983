"""A soft map of nodes to classes, rounded to a Boolean one; what must be remembered between roundings is state.

Axes: T classes of all K datasets together, D classes of one, U unified nodes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from manyseg.labels import JointClasses
from manyseg.relate.assignment import covering_assignment, prune_by_score, transport

__all__ = ["Rounding"]

INERTIA = 0.7
"""How much of the classes' demand for nodes stays from rounding to rounding (the authors' code)."""

HALF = 0.5
"""Share below which `prune = "share"` unlinks a node."""


class Rounding(nn.Module):
    """The Boolean map of every dataset: exclusive (a node has one class at most) and covering (a class has a node).

    A node takes its best class by unbalanced transport, repaired so that no class is empty (AutoUniSeg, Appendix C).
    `prune` then unlinks: "mass" the nodes that get less than 1 / (U D) of the plan, the authors' rule, which rarely
    does; "share" those that belong to their class by less than half (ours). A class always keeps its best node.
    """

    maps: Tensor
    demand: Tensor
    node_potentials: Tensor
    class_potentials: Tensor

    def __init__(
        self, classes: JointClasses, relation: Bool[np.ndarray, "T U"], prune: Literal["mass", "share"] = "share"
    ) -> None:
        super().__init__()
        self.prune = prune
        self._rows = tuple(classes.rows.values())
        sizes = classes.sizes
        T, U = relation.shape
        share = np.repeat(1 / np.array(sizes), sizes)
        self.register_buffer("maps", torch.tensor(relation))
        # The demand of a dataset's classes sums to 1; potentials of 0 mean that there is no plan yet.
        self.register_buffer("demand", torch.tensor(share, dtype=torch.float64))
        self.register_buffer("node_potentials", torch.zeros(len(sizes), U, dtype=torch.float64))
        self.register_buffer("class_potentials", torch.zeros(T, dtype=torch.float64))

    @torch.no_grad()
    def update(self, shares: Float[Tensor, "T U"]) -> None:
        """Round `shares` anew, on every process the first one's. This waits for the device."""
        state = (self.demand, self.node_potentials, self.class_potentials)
        soft = shares.double().cpu().numpy()
        demand, nodes, classes = (t.cpu().numpy().copy() for t in state)
        maps = []
        for k, rows in enumerate(self._rows):
            S = soft[rows]
            warm = (nodes[k], classes[rows]) if classes[rows].any() else None
            plan = transport((1 - S.T + 1e-8) / 2, demand[rows], initial=warm)
            nodes[k], classes[rows] = plan.node_potentials, plan.class_potentials
            Q = plan.mass / plan.mass.sum()
            demand[rows] = INERTIA * demand[rows] + (1 - INERTIA) * Q.sum(0)
            owner, score, least = covering_assignment(Q), Q, 1 / Q.size
            if self.prune == "share":
                score, least = S.T, HALF
            maps.append(prune_by_score(owner, score, least))
        fresh = (torch.from_numpy(a) for a in (demand, nodes, classes))
        for target, value in zip((*state, self.maps), (*fresh, torch.from_numpy(np.concatenate(maps))), strict=True):
            target.copy_(value)
            if dist.is_available() and dist.is_initialized():
                dist.broadcast(target, 0)
