"""Assignments of least cost: from the nodes of one label space to the classes of another.

The map gives every node one class and every class at least one node. It is the exact form of AutoUniSeg's rounding of
soft maps (Appendix C), and fits the map of an unseen dataset on a labelled split (its protocol: cost 1 - IoU).

Axes: U nodes, D classes.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from manyseg.errors import UserError

__all__ = ["cheapest_map", "map_by_iou"]


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
