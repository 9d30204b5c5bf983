"""Assignments of least cost: from the nodes of one label space to the classes of another.

The map gives every node one class and every class at least one node. Exactly, it fits the map of an unseen dataset on a
labelled split (cost 1 - IoU). Soft maps are rounded as AutoUniSeg does (Appendix C): unbalanced transport, the best
class of every node, a repair, and pruning.

Axes: U nodes, D classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from manyseg.errors import UserError

__all__ = ["Plan", "cheapest_map", "cover", "map_by_iou", "thin", "transport", "used"]


def cheapest_map(cost: Float[np.ndarray, "U D"], *, partial: bool = False) -> Int[np.ndarray, " U"]:
    """Return the class of each node so that the total cost is least and no class is without a node.

    `cost` must be finite. With fewer nodes than classes there is no such map: then UserError, or with `partial` the
    cheapest map that covers as many classes as there are nodes.

    Solved exactly as a square assignment of nodes to D columns, one for each class, and U - D columns that stand for
    "whichever class is cheapest".
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
    """Return the relation by which U predicted nodes say D true classes best.

    `counts[c, n]` are the pixels of true class c that were predicted as node n. The cost of giving n to c is 1 - IoU,
    1 where both are empty. Every node gets one class and every class a node; with fewer nodes than classes, the
    classes that would gain least stay without.
    """
    counts = counts.astype(np.float64)
    union = counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True) - counts
    iou = np.divide(counts, union, out=np.zeros_like(counts), where=union > 0)
    relation = np.zeros(counts.shape, bool)
    relation[cheapest_map(1 - iou.T, partial=True), np.arange(counts.shape[1])] = True
    return relation


# Unbalanced transport.


class Plan(NamedTuple):
    """A transport plan of nodes to classes, and the potentials that the next one may start from."""

    mass: Float[np.ndarray, "U D"]
    nodes: Float[np.ndarray, " U"]
    classes: Float[np.ndarray, " D"]
    steps: int
    """Newton steps that were taken."""


def transport(
    cost: Float[np.ndarray, "U D"],
    share: Float[np.ndarray, " D"],
    *,
    reg: float = 0.01,
    reg_m: float = 5.0,
    tol: float = 1e-6,
    start: tuple[Float[np.ndarray, " U"], Float[np.ndarray, " D"]] | None = None,
) -> Plan:
    """Carry the mass of U equal nodes to classes that want `share` of it, by entropic unbalanced transport.

    `reg` is the weight of the entropy, `reg_m` that of the divergence of both marginals from 1/U and `share`. The plan
    is Q = exp(f + g - cost / reg) with phi = reg_m / (reg_m + reg) and

        f = phi (log a - LSE_c(g - cost / reg)),    g = phi (log b - LSE_n(f - cost / reg)).

    A few of these sweeps, in logarithms, and from there Newton's method on the convex dual, with the nodes eliminated:
    the sweeps alone need thousands where reg_m >> reg. Ends when no potential moves by more than `tol`, that is, when
    masses are that exact relatively; `start` with an earlier plan's potentials saves most of the steps.
    Equal to POT's `sinkhorn_unbalanced(..., reg_type="entropy")` at its limit. Nothing underflows.
    """
    dual = _Dual(cost / reg, np.full(len(cost), 1 / len(cost)), share, reg / reg_m)
    f, g = (np.zeros(len(cost)), np.zeros(len(share))) if start is None else start
    for _ in range(COLD_SWEEPS if start is None else 1):
        f, g = dual.sweep(f, g)
    value, Q = dual.value(f, g)
    steps = 0
    while steps < MOST_STEPS:
        steps += 1
        df, dg, slope = dual.newton(f, g, Q)
        length = 1.0
        while True:
            after, Q = dual.value(f + length * df, g + length * dg)
            # Armijo's rule, less what rounding can add to the value.
            if after <= value + 1e-4 * length * slope + 1e-12 * abs(value) or length <= 1e-6:
                break
            length /= 2
        f, g, value = f + length * df, g + length * dg, after
        if length == 1 and max(np.abs(df).max(), np.abs(dg).max()) < tol:
            break
        if length < 1:
            f, g = dual.sweep(f, g)
            value, Q = dual.value(f, g)
    return Plan(Q, f, g, steps)


COLD_SWEEPS = 10
"""Sweeps before the first Newton step where nothing is known."""

MOST_STEPS = 100
"""Newton steps at most; about ten are needed from nothing, five from an earlier plan."""


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
            rest = (self.a * np.exp(-self.k * f)).sum() + (self.b * np.exp(-self.k * g)).sum()
            return float(Q.sum() + rest / self.k), Q

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


def cover(mass: Float[np.ndarray, "U D"]) -> Int[np.ndarray, " U"]:
    """Return the class of each node: the one with most of its mass, but no class stays without a node.

    An empty class takes, of the nodes of classes that have several, the one that gives it most; of several empty
    classes the best served is first. (The authors' code sorts the wrong way and takes the worst.)
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


def thin(owner: Int[np.ndarray, " U"], score: Float[np.ndarray, "U D"], least: float) -> Bool[np.ndarray, "D U"]:
    """Return the relation of the nodes' classes, less the nodes that score below `least`; each class keeps its best."""
    relation = np.zeros(score.T.shape, bool)
    relation[owner, np.arange(len(owner))] = True
    by_class = score.T
    return _keep(relation, by_class, by_class >= least)


def used(
    relation: Bool[np.ndarray, "D U"],
    counts: Int[np.ndarray, "D U"],
    unlabelled: Int[np.ndarray, " U"],
    least: float = 0.01,
    absent: float = 0.5,
) -> Bool[np.ndarray, "D U"]:
    """Return the relation less the nodes that are hardly ever predicted where their class is the truth.

    `counts[c, n]` are the pixels of true class c predicted as node n, `unlabelled[n]` those without a label. A node
    stays with a class if it has more than `least` of the class's pixels among the class's nodes, and if no more than
    the share `absent` of its own pixels are without a label: else it is what the dataset does not label. The most used
    node of a class stays, and so do all of a class without pixels.
    """
    among = np.where(relation, counts, 0)
    total = among.sum(1, keepdims=True)
    labelled = unlabelled <= absent * (unlabelled + counts.sum(0))
    enough = ((among > least * total) & labelled) | (total == 0)
    return _keep(relation, among, enough)


def _keep(relation: Bool[np.ndarray, "D U"], score: np.ndarray, enough: np.ndarray) -> Bool[np.ndarray, "D U"]:
    """Return the entries that are enough, and of every class that has any entry the one that scores best."""
    best = np.where(relation, score, -np.inf).argmax(1)
    out: Bool[np.ndarray, "D U"] = relation & enough
    rows = relation.any(1)
    out[rows, best[rows]] = True
    return out
