"""Assignments of unified nodes to the classes of a dataset: every node gets one class, every class at least one node.

`min_cost_assignment` solves this exactly; it fits the map of an unseen dataset on a labelled split (cost 1 - IoU). Soft
maps are rounded as AutoUniSeg does (Appendix C): unbalanced optimal transport, the best class of every node, a repair
that leaves no class without a node, and pruning.

Axes: U nodes, D classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from manyseg.errors import UserError

__all__ = [
    "TransportPlan",
    "covering_assignment",
    "map_by_iou",
    "min_cost_assignment",
    "prune_by_score",
    "prune_by_usage",
    "transport",
]


def min_cost_assignment(cost: Float[np.ndarray, "U D"], *, partial: bool = False) -> Int[np.ndarray, " U"]:
    """Return the class of each node so that the total cost is least and every class has a node.

    `cost` must be finite. With fewer nodes than classes there is no such assignment: then UserError, or with `partial`
    the assignment of least cost that gives nodes to as many classes as there are nodes.

    Solved exactly as a square assignment problem: D columns stand for one class each, and U - D further columns for the
    class of least cost, whichever that is.
    """
    nodes, classes = cost.shape
    if nodes < classes and not partial:
        raise UserError(f"{nodes} nodes cannot cover {classes} classes; use at least as many nodes as classes")
    if not np.isfinite(cost).all():
        raise ValueError(f"{(~np.isfinite(cost)).sum()} of {cost.size} costs are not finite")
    free = np.repeat(cost.min(1, keepdims=True), max(0, nodes - classes), 1)
    rows, columns = linear_sum_assignment(np.hstack([cost, free]))
    out = np.empty(nodes, np.int64)
    out[rows] = np.where(columns < classes, columns, cost.argmin(1)[rows])
    return out


def map_by_iou(counts: Int[np.ndarray, "D U"]) -> Bool[np.ndarray, "D U"]:
    """Return the relation of U predicted nodes to D true classes that fits `counts` best.

    `counts[c, n]` are the pixels of true class c that were predicted as node n. The cost of giving n to c is 1 - IoU,
    1 where both are empty. Every node gets one class and every class a node; with fewer nodes than classes, those
    classes stay without a node that would gain least by one.
    """
    counts = counts.astype(np.float64)
    union = counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True) - counts
    iou = np.divide(counts, union, out=np.zeros_like(counts), where=union > 0)
    relation = np.zeros(counts.shape, bool)
    relation[min_cost_assignment(1 - iou.T, partial=True), np.arange(counts.shape[1])] = True
    return relation


# Unbalanced transport.


class TransportPlan(NamedTuple):
    """A transport plan from nodes to classes, and its dual potentials, from which a similar problem may start."""

    mass: Float[np.ndarray, "U D"]
    node_potentials: Float[np.ndarray, " U"]
    class_potentials: Float[np.ndarray, " D"]
    steps: int
    """The number of Newton steps taken."""


def transport(
    cost: Float[np.ndarray, "U D"],
    demand: Float[np.ndarray, " D"],
    *,
    reg: float = 0.01,
    reg_m: float = 5.0,
    tol: float = 1e-6,
    initial: tuple[Float[np.ndarray, " U"], Float[np.ndarray, " D"]] | None = None,
) -> TransportPlan:
    """Carry the mass of U equal nodes to classes by entropic unbalanced optimal transport; `demand` is what each wants.

    `reg` is the weight of the entropy, `reg_m` that of the divergence of both marginals from 1/U and `demand`. The
    plan is Q = exp(f + g - cost / reg) with phi = reg_m / (reg_m + reg) and

        f = phi (log a - LSE_c(g - cost / reg)),    g = phi (log b - LSE_n(f - cost / reg)).

    A few of these sweeps, in logarithms, are followed by Newton's method on the convex dual with the nodes eliminated,
    as the sweeps alone need thousands of rounds where reg_m >> reg. It ends when no potential changes by more than
    `tol`, which bounds the relative error of the masses. `initial` potentials, of an earlier plan, save most steps.
    Equal to POT's `sinkhorn_unbalanced(..., reg_type="entropy")` at its limit. Nothing underflows.
    """
    dual = _Dual(cost / reg, np.full(len(cost), 1 / len(cost)), demand, reg / reg_m)
    f, g = (np.zeros(len(cost)), np.zeros(len(demand))) if initial is None else initial
    for _ in range(INITIAL_SWEEPS if initial is None else 1):
        f, g = dual.sweep(f, g)
    value, Q = dual.value(f, g)
    steps = 0
    while steps < MAX_STEPS:
        steps += 1
        df, dg, slope = dual.newton(f, g, Q)
        length = 1.0
        while True:
            after, Q = dual.value(f + length * df, g + length * dg)
            # Armijo's rule, with a margin for rounding errors of the value.
            if after <= value + 1e-4 * length * slope + 1e-12 * abs(value) or length <= 1e-6:
                break
            length /= 2
        f, g, value = f + length * df, g + length * dg, after
        if length == 1 and max(np.abs(df).max(), np.abs(dg).max()) < tol:
            break
        if length < 1:
            f, g = dual.sweep(f, g)
            value, Q = dual.value(f, g)
    return TransportPlan(Q, f, g, steps)


INITIAL_SWEEPS = 10
"""Sweeps before the first Newton step, without initial potentials."""

MAX_STEPS = 100
"""Newton steps at most; about ten are needed without initial potentials, five with those of an earlier plan."""


class _Dual(NamedTuple):
    """The dual of unbalanced transport: sum Q + (sum a exp(-k f) + sum b exp(-k g)) / k, convex; k = reg / reg_m."""

    cost: Float[np.ndarray, "U D"]
    """Divided by reg."""
    a: Float[np.ndarray, " U"]
    b: Float[np.ndarray, " D"]
    k: float

    def sweep(self, f: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Minimise over f, then over g."""
        phi = 1 / (1 + self.k)
        f = phi * (np.log(self.a) - logsumexp(g - self.cost, 1))
        return f, phi * (np.log(self.b) - logsumexp(f[:, None] - self.cost, 0))

    def value(self, f: np.ndarray, g: np.ndarray) -> tuple[float, Float[np.ndarray, "U D"]]:
        """Return the value, and the plan."""
        with np.errstate(over="ignore", under="ignore"):
            Q = np.exp(f[:, None] + g - self.cost)
            marginals = (self.a * np.exp(-self.k * f)).sum() + (self.b * np.exp(-self.k * g)).sum()
            return float(Q.sum() + marginals / self.k), Q

    def newton(self, f: np.ndarray, g: np.ndarray, Q: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Return Newton's step, and the slope along it; the Hessian is reduced to [D, D]."""
        wanted_f, wanted_g = self.a * np.exp(-self.k * f), self.b * np.exp(-self.k * g)
        rows, columns = Q.sum(1), Q.sum(0)
        over_f, over_g = rows - wanted_f, columns - wanted_g
        diagonal = rows + self.k * wanted_f
        reduced = np.diag(columns + self.k * wanted_g) - Q.T @ (Q / diagonal[:, None])
        dg = np.linalg.solve(reduced, Q.T @ (over_f / diagonal) - over_g)
        df = -(over_f + Q @ dg) / diagonal
        return df, dg, float(over_f @ df + over_g @ dg)


# Rounding.


def covering_assignment(mass: Float[np.ndarray, "U D"]) -> Int[np.ndarray, " U"]:
    """Return the class of each node: the one with most of its mass, repaired so that no class is without a node.

    A class without a node gets one from the classes that have several: the node with most mass for it. Of several such
    classes, that with the largest such mass is first. (The authors' code sorts the wrong way and takes the smallest.)
    """
    nodes, classes = mass.shape
    if nodes < classes:
        raise UserError(f"{nodes} nodes cannot cover {classes} classes; use at least as many nodes as classes")
    owner: Int[np.ndarray, " U"] = mass.argmax(1)
    counts = np.bincount(owner, minlength=classes)
    while not counts.all():
        offers = np.where((counts[owner] > 1)[:, None] & (counts == 0), mass, -np.inf)
        node, taker = divmod(int(offers.argmax()), classes)
        counts[owner[node]] -= 1
        counts[taker] += 1
        owner[node] = taker
    return owner


def prune_by_score(
    owner: Int[np.ndarray, " U"], score: Float[np.ndarray, "U D"], min_score: float
) -> Bool[np.ndarray, "D U"]:
    """Return the relation of nodes to their classes, without nodes that score below `min_score`.

    The node of highest score stays with each class, whatever its score.
    """
    relation = np.zeros(score.T.shape, bool)
    relation[owner, np.arange(len(owner))] = True
    by_class = score.T
    return _keep(relation, by_class, by_class >= min_score)


def prune_by_usage(
    relation: Bool[np.ndarray, "D U"],
    counts: Int[np.ndarray, "D U"],
    unlabelled: Int[np.ndarray, " U"],
    min_share: float = 0.01,
    max_unlabelled: float = 0.5,
) -> Bool[np.ndarray, "D U"]:
    """Return the relation without the nodes that are hardly ever predicted where their class is the truth.

    `counts[c, n]` are the pixels of true class c predicted as node n, `unlabelled[n]` those without a label. A node
    stays with its class if, of the class's pixels that are predicted as one of the class's nodes, more than the share
    `min_share` is predicted as this one, and if at most the share `max_unlabelled` of all pixels predicted as the node
    is without a label (otherwise it stands for something that the dataset does not label). The most used node of a
    class always stays, and so do all nodes of a class without pixels.
    """
    among = np.where(relation, counts, 0)
    total = among.sum(1, keepdims=True)
    labelled = unlabelled <= max_unlabelled * (unlabelled + counts.sum(0))
    enough = ((among > min_share * total) & labelled) | (total == 0)
    return _keep(relation, among, enough)


def _keep(relation: Bool[np.ndarray, "D U"], score: np.ndarray, enough: np.ndarray) -> Bool[np.ndarray, "D U"]:
    """Return the entries that are enough, and the one of highest score of every class that has any entry."""
    best = np.where(relation, score, -np.inf).argmax(1)
    out: Bool[np.ndarray, "D U"] = relation & enough
    rows = relation.any(1)
    out[rows, best[rows]] = True
    return out
