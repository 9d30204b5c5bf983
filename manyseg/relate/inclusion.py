"""Which classes lie within which, from what a network's heads confuse while it is trained.

A class x of dataset a lies within a class y of dataset b if two shares are large: of x's pixels, what the head of b
calls y; and of what the head of a calls x on the images of b, what is labelled y. Pixels without a label count in the
second one: where b leaves unlabelled what the head of a calls x, x is within no class of b, whatever the head of b
says, which has no other answer. Both shares are corrected for chance, as Cohen's kappa is, since heads that have
learned nothing yet call everything alike, and measured by what the heads reach on their own classes. Where x lies
within y and y within x they are equal, unless another class of a lies within y too: y is then the whole of several
parts.

Axes: T classes of all datasets together, K datasets, G clusters of equal classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from manyseg.labels import JointClasses
from manyseg.relate.calibrate import logit
from manyseg.relate.log_odds import IMPOSSIBLE, cluster_numbers
from manyseg.relate.programme import partition

__all__ = ["Nodes", "inclusion_log_odds", "related_nodes"]

KNOWN = 0.4
"""A head knows a class for certain that finds this share of its pixels."""

BASE = -2.0
"""Log-odds of a class being within another of which nothing is known."""

OUTSIDE = -3.0
"""Log-odds below which a class is no part of another for certain; from here to 0 a relation is left open."""

COVERED = 0.75
"""A class is no node of its own where the classes of one dataset within it take this share of its pixels."""


def inclusion_log_odds(
    classes: JointClasses,
    counts: Int[np.ndarray, "T T"],
    unlabelled: Int[np.ndarray, "K T"],
    prior: Float[np.ndarray, "T T"],
) -> Float[np.ndarray, "T T"]:
    """Return the log-odds of x being within y ([x, y]) for two datasets; within one dataset it is impossible.

    `counts[x, y]` are pixels of class x that the head of y's dataset calls y, its own dataset's too; `unlabelled[k, y]`
    those of dataset k without a label. Log-odds of the shares count as far as both classes are `KNOWN` to their own
    heads; the log-odds `prior`, of other evidence, are added. The likeliest class of a dataset excludes the others.
    """
    n, dataset, rows = counts.astype(np.float64), classes.dataset, [*classes.rows.values()]
    by_head = np.stack([n[:, r].sum(1) for r in rows], 1)[:, dataset]  # [x, y]: all pixels of x that y's head was asked
    images = np.stack([n[r].sum(0) for r in rows])  # [k, y]: labelled pixels of k that are called y
    total = np.stack([images[:, r].sum(1) for r in rows], 1)  # [k, l]: labelled pixels of k, called by l
    chance = images[dataset] / np.maximum(total[dataset][:, dataset], 1)
    called, c = _beyond_chance(n, by_head, chance)
    # [k, y]: how much of y dataset k labels at all; of what it does not, its head's answers say nothing.
    labels = (images + 1) / (images + unlabelled + 1)
    m = n * labels[dataset].T  # [y, x], so weighted by how much of y the dataset of x labels.
    found = np.stack([m[r].sum(0) for r in rows]) + unlabelled
    everything = np.stack([found[:, r].sum(1) for r in rows], 1)[dataset][:, dataset]
    chance = np.stack([m[:, r].sum(1) for r in rows], 1)[:, dataset] / np.maximum(everything, 1)
    labelled, d = (a.T for a in _beyond_chance(m, found[dataset], chance))
    # How well the heads know their own classes: no other dataset's can be found better.
    own = np.diag(n)
    recall, precision = (own / np.maximum(np.diag(whole), 1) for whole in (by_head, images[dataset]))
    called = np.minimum(called / np.maximum(recall, KNOWN), 1)
    labelled = np.minimum(labelled / np.maximum(precision, KNOWN)[:, None], 1)
    # Geometric mean; a share that could hardly be another says little.
    rate = np.exp((c * np.log(called) + d * np.log(labelled)) / np.maximum(c + d, 1e-9))
    known = np.minimum(recall / KNOWN, 1)
    trust = np.minimum(known[:, None], known) * (c + d > 0)
    odds = trust * logit(rate) + (1 - trust) * BASE + prior
    for columns in rows:
        odds[:, columns] -= np.logaddexp(0, _best_other(odds[:, columns]))
    return np.where(classes.differ, odds, IMPOSSIBLE)


def _best_other(odds: Float[np.ndarray, "T D"]) -> Float[np.ndarray, "T D"]:
    """Return the largest log-odds of the other columns."""
    if odds.shape[1] == 1:
        return np.full_like(odds, IMPOSSIBLE)
    order = np.sort(odds, 1)
    return np.where(odds == order[:, -1:], order[:, -2:-1], order[:, -1:])


def _beyond_chance(part: np.ndarray, whole: np.ndarray, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares `part / whole`, corrected for chance and not below 1e-4, and how much each can say, 0 to 1."""
    share = part / np.maximum(whole, 1)
    corrected = np.clip((share - chance) / np.maximum(1 - chance, 1e-9), 1e-4, 1)
    return corrected, np.where(whole > 0, 1 - chance, 0)


class Nodes(NamedTuple):
    """A label space of which every node is called by the position of its first class."""

    relation: Bool[np.ndarray, "T T"]
    """[x, u]: class x may be node u. In every dataset a node belongs to one class at most."""
    core: Bool[np.ndarray, "T T"]
    """[x, u]: x is one of the equal classes that node u stands for; wholes that their parts cover have no such node."""
    outside: Bool[np.ndarray, "K T"]
    """[k, u]: node u is no class of dataset k, for certain."""


def related_nodes(classes: JointClasses, odds: Float[np.ndarray, "T T"], counts: Int[np.ndarray, "T T"]) -> Nodes:
    """Return the nodes that follow from the log-odds of classes being within others, where these are positive.

    Equal classes are one node, and a class may be the nodes of all classes within it. Where these cover it (`COVERED`)
    it has no node of its own.
    """
    K = len(classes.spaces)
    inside = odds > 0
    of_dataset = np.eye(K, dtype=bool)[classes.dataset]
    inside &= ~_wholes(inside, of_dataset)
    equal = inside & inside.T
    clusters = partition(np.where(equal, odds + odds.T, IMPOSSIBLE), classes.dataset)
    group = cluster_numbers(clusters)
    member = np.eye(len(clusters), dtype=bool)[group]
    has = (member.T.astype(int) @ of_dataset) > 0  # [g, k]: dataset k has a class in g.
    # Clusters within clusters, by the mean log-odds of their classes; of the two directions the likelier one.
    free = ~has[group][:, classes.dataset]
    count = member.T.astype(float) @ free @ member
    within = np.maximum(member.T @ np.where(free, np.clip(odds, -8, 8), 0) @ member / np.maximum(count, 1), 0)
    within[_wholes(within > 0, has)] = 0
    within[within < within.T] = 0
    np.fill_diagonal(within, 0)
    within[(within == within.T) & (np.arange(len(clusters))[:, None] > np.arange(len(clusters)))] = 0
    relation, core = _assemble(classes, clusters, within, has, counts)
    likely = np.maximum(odds, odds.T) > OUTSIDE
    uncertain = (core.T.astype(int) @ likely @ of_dataset) > 0  # [u, k]
    return Nodes(relation, core, (~uncertain & (relation.T.astype(int) @ of_dataset == 0)).T & relation.any(0))


def _wholes(inside: Bool[np.ndarray, "N N"], has: Bool[np.ndarray, "N K"]) -> Bool[np.ndarray, "N N"]:
    """Say which y cannot be within x ([y, x]), as x is one of several parts of y that a dataset has.

    Such a whole lies within none of them, though most of its pixels may be one part's. `inside[x, y]` says that x is
    within y, and `has` which datasets have a class in each.
    """
    several = inside.T.astype(int) @ has > 1  # [y, k]
    lies: Bool[np.ndarray, "N N"] = inside.T & (several.astype(int) @ has.T > 0)
    return lies


def _assemble(
    classes: JointClasses,
    clusters: list[tuple[int, ...]],
    within: Float[np.ndarray, "G G"],
    has: Bool[np.ndarray, "G K"],
    counts: Int[np.ndarray, "T T"],
) -> tuple[Bool[np.ndarray, "T T"], Bool[np.ndarray, "T T"]]:
    wholes = [np.flatnonzero(row > 0)[np.argsort(-row[row > 0], kind="stable")].tolist() for row in within]
    relation, core = np.zeros((2, len(classes), len(classes)), bool)
    for g, members in enumerate(clusters):
        if _covered(classes, clusters, g, within, counts):
            continue
        node, taken = members[0], has[g].copy()
        relation[list(members), node] = core[list(members), node] = True
        # Direct wholes before the wholes of wholes, likelier ones first.
        queue, seen = list(wholes[g]), {g}
        while queue:
            h = queue.pop(0)
            if h not in seen:
                seen.add(h)
                queue += wholes[h]
                for y in clusters[h]:
                    relation[y, node] |= not taken[classes.dataset[y]]
                    taken[classes.dataset[y]] = True
    for x in np.flatnonzero(~relation.any(1)):
        relation[x, x] = core[x, x] = True
    return relation, core


def _covered(
    classes: JointClasses,
    clusters: list[tuple[int, ...]],
    g: int,
    within: Float[np.ndarray, "G G"],
    counts: Int[np.ndarray, "T T"],
) -> bool:
    """Say whether the parts that one dataset has within the cluster take most of the pixels of all its classes."""
    parts = [x for h in np.flatnonzero(within[:, g]) for x in clusters[h]]
    best = 0.0
    for rows in classes.rows.values():
        own = [x for x in parts if rows.start <= x < rows.stop]
        whole = counts[list(clusters[g]), rows].sum()
        if len(own) > 1 and whole:
            best = max(best, counts[np.ix_(clusters[g], own)].sum() / whole)
    return best > COVERED
