"""A soft map of nodes to classes, rounded to a Boolean one; what must be remembered between roundings is state.

Axes: T classes of all K datasets together, D classes of one, U unified nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from manyseg.relate.assignment import covering_assignment, min_cost_assignment, prune_by_score, transport

__all__ = ["Rounding"]

INERTIA = 0.7
"""How much of the classes' demand for nodes stays from rounding to rounding (the authors' code)."""

HALF = 0.5
"""Share below which `prune = "share"` unlinks a node."""


class Rounding(nn.Module):
    """The Boolean map of every dataset: exclusive (a node has one class at most) and covering (a class has a node).

    `method` "uot" takes the best class of every node by unbalanced transport, repaired so that no class is empty
    (AutoUniSeg, Appendix C); "exact" takes the cheapest covering map. `prune` then unlinks: "mass" the nodes that get
    less than 1 / (U D) of the plan, the authors' rule, which rarely does; "share" those that belong to their class by
    less than half (ours). A class always keeps its best node. `reg_m` says how much nodes are spread evenly.
    """

    maps: Tensor
    demand: Tensor
    node_potentials: Tensor
    class_potentials: Tensor

    def __init__(
        self,
        sizes: Sequence[int],
        links: Bool[np.ndarray, "T U"],
        *,
        method: Literal["uot", "exact"] = "uot",
        prune: Literal["mass", "share"] = "share",
        reg_m: float = 5.0,
    ) -> None:
        super().__init__()
        self.sizes, self.method, self.prune, self.reg_m = list(sizes), method, prune, reg_m
        T, U = links.shape
        share = np.repeat(1 / np.array(sizes), sizes)
        self.register_buffer("maps", torch.tensor(links))
        # The demand of a dataset's classes sums to 1; potentials of 0 mean that there is no plan yet.
        self.register_buffer("demand", torch.tensor(share, dtype=torch.float64))
        self.register_buffer("node_potentials", torch.zeros(len(sizes), U, dtype=torch.float64))
        self.register_buffer("class_potentials", torch.zeros(T, dtype=torch.float64))

    @torch.no_grad()
    def update(self, shares: Float[Tensor, "T U"]) -> None:
        """Round `shares` anew, on every process the first one's. This waits for the device."""
        state = (self.demand, self.node_potentials, self.class_potentials)
        soft = np.split(shares.double().cpu().numpy(), np.cumsum(self.sizes)[:-1])
        demand, nodes, classes = (t.cpu().numpy().copy() for t in state)
        maps, start = [], 0
        for k, S in enumerate(soft):
            rows = slice(start, start := start + len(S))
            if self.method == "exact":
                owner, score, least = min_cost_assignment(1 - S.T), S.T, 0.0
            else:
                warm = (nodes[k], classes[rows]) if classes[rows].any() else None
                plan = transport((1 - S.T + 1e-8) / 2, demand[rows], reg_m=self.reg_m, initial=warm)
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
