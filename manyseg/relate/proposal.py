"""Propose the unified label space of several datasets, with the reason for every relation, before any training.

Axes: T classes of all datasets together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from manyseg.labels import ClassKey, JointClasses, LabelSpace, Taxonomy
from manyseg.labels.names import node_names
from manyseg.labels.taxonomy import check_datasets
from manyseg.relate.calibrate import sigmoid
from manyseg.relate.confusion_evidence import Counts
from manyseg.relate.constraints import Constraints
from manyseg.relate.decisions import DECIDED, Decisions
from manyseg.relate.log_odds import IMPOSSIBLE, By, Evidence, cluster, cluster_numbers, gather, has_other
from manyseg.relate.name_evidence import words
from manyseg.relate.text_evidence import TEMPLATES, Encode

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["By", "ClassPair", "Problem", "Proposal", "kinds_of", "propose"]

Kind = Literal["unrelated", "equal", "part of", "contains", "overlaps"]

UNRELATED, EQUAL, PART_OF, CONTAINS, OVERLAPS = range(5)
KINDS: tuple[Kind, ...] = ("unrelated", "equal", "part of", "contains", "overlaps")

LISTED = -np.log(9)
"""Unrelated pairs are listed above these log-odds of being related, a probability of 0.1."""


@dataclass(frozen=True)
class ClassPair:
    """How class `a` (dataset, class) relates to class `b` of another dataset.

    `kind` is "equal", "part of" (a within b), "contains" (b within a), "overlaps" or "unrelated". `score`, 0 to 1, is
    the probability of that kind, as far as the evidence is calibrated. `evidence` says why: what the `names` say; what
    the `lexicon` says; the similarity of the `text`; as `confusion` the share of a's pixels predicted as b, as
    `confusion back` the share of b's predicted as a; as `mined` and `mined back` what a model learned (`add_mined`).
    """

    a: ClassKey
    b: ClassKey
    kind: Kind
    score: float
    evidence: Mapping[str, float | str]


@dataclass(frozen=True)
class Proposal:
    """A taxonomy to accept or correct, and the pairs of related classes that it rests on, surest first."""

    taxonomy: Taxonomy
    pairs: tuple[ClassPair, ...]


def propose(
    spaces: Sequence[LabelSpace],
    *,
    by: By = "text",
    encode: Encode | None = None,
    confusion: Counts | None = None,
    constraints: Constraints | None = None,
    templates: Sequence[str] = TEMPLATES,
) -> Proposal:
    """Find equal, part-of and overlapping classes, and build the unified space from them.

    `by` "text" and "both" need `encode`; "confusion" and "both" need `confusion`. Nothing is tuned on known relations
    (see `calibrate`), nothing is random, and the order of datasets and classes does not matter. Raises UserError for
    evidence that is missing or of wrong shape, and for constraints that cannot be kept.
    """
    return Problem.of(spaces, by, encode, confusion, templates).solve(constraints or Constraints())


@dataclass(frozen=True)
class Problem:
    """Label spaces with the evidence about their classes, which is gathered once for any number of solutions.

    `classes` are in an order of their own, so that the order of datasets and classes does not matter.
    """

    spaces: tuple[LabelSpace, ...]
    classes: JointClasses
    evidence: Evidence

    @classmethod
    def of(
        cls,
        spaces: Sequence[LabelSpace],
        by: By,
        encode: Encode | None = None,
        confusion: Counts | None = None,
        templates: Sequence[str] = TEMPLATES,
    ) -> Problem:
        """Gather the evidence; the arguments are those of `propose`."""
        check_datasets(spaces)
        ordered = [LabelSpace(s.name, tuple(sorted(s.classes, key=lambda c: c.name))) for s in spaces]
        classes = JointClasses(tuple(sorted(ordered, key=lambda s: s.name)))
        return cls(tuple(spaces), classes, gather(spaces, classes, by, encode, confusion, templates))

    def solve(self, constraints: Constraints) -> Proposal:
        """Propose what the evidence says within `constraints`; raises UserError for those that cannot be kept."""
        constraints.check(self.spaces)
        decisions = Decisions.of(constraints, self.classes)
        odds, clusters = cluster(self.classes, self.evidence, decisions.must_link, decisions.unequal)
        return self.proposal(decisions, decisions.pin(odds, clusters), clusters)

    def proposal(
        self, decisions: Decisions, odds: Float[np.ndarray, "T T"], clusters: Sequence[tuple[int, ...]]
    ) -> Proposal:
        """Make a table and a list of pairs of directed log-odds, with the decisions in them, and clusters."""
        kinds = kinds_of(self.classes, cluster_numbers(clusters), odds)
        nodes = [*clusters, *_common_parts(kinds, self.evidence, decisions.apart)]
        taxonomy = _taxonomy(self.spaces, self.classes, nodes, kinds, odds, decisions.apart)
        return Proposal(taxonomy, _pairs(self.classes, kinds, odds, self.evidence))


def kinds_of(
    classes: JointClasses, group: Int[np.ndarray, " T"], odds: Float[np.ndarray, "T T"]
) -> Int[np.ndarray, "T T"]:
    """Return the kind of every pair, a position in KINDS: [x, y] says how x relates to y.

    Two classes that are not one node can each be likely to be part of the other. If then the dataset of x has a class
    in y's cluster as well, it tells the two apart, so that x is the narrower one.
    """
    within = (odds > 0) & classes.differ
    told_apart = has_other(classes, group).T  # [x, y]: x's dataset has a class in y's cluster.
    both = within & within.T
    part = (within & ~within.T) | (both & told_apart & ~told_apart.T)
    out = np.full(odds.shape, UNRELATED, np.int8)
    out[both] = OVERLAPS
    out[part.T] = CONTAINS
    out[part] = PART_OF
    out[(group[:, None] == group[None]) & classes.differ] = EQUAL
    return out


def _common_parts(
    kinds: Int[np.ndarray, "T T"],
    evidence: Evidence,
    cannot_link: Sequence[tuple[int, int]],
) -> list[tuple[int, ...]]:
    """Return two classes that overlap by the lexicon as a further cluster.

    They have a part in common for which there may be no class: "van or truck" and "car or van".
    """
    if evidence.lexicon is None:
        return []
    partly = evidence.lexicon.partly | evidence.lexicon.partly.T
    apart = {frozenset(p) for p in cannot_link}
    pairs = np.argwhere(np.triu(partly & (kinds == OVERLAPS), 1)).tolist()
    return [(x, y) for x, y in pairs if frozenset((x, y)) not in apart]


def _taxonomy(
    spaces: Sequence[LabelSpace],
    classes: JointClasses,
    clusters: Sequence[tuple[int, ...]],
    kinds: Int[np.ndarray, "T T"],
    odds: Float[np.ndarray, "T T"],
    cannot_link: Sequence[tuple[int, int]],
) -> Taxonomy:
    """Make every cluster a node, and give it also to the class that contains it in each dataset without a class in it.

    A class contains a cluster if one of the cluster's classes is part of it and their mean log-odds are positive; of
    several such classes of a dataset the likeliest is taken.
    """
    apart = {frozenset(p) for p in cannot_link}
    position = JointClasses(tuple(spaces)).positions
    nodes = []
    for members in clusters:
        rows = list(members)
        support = np.where((kinds[rows] == PART_OF).any(0), odds[rows].mean(0), IMPOSSIBLE)
        support[(odds[rows] >= DECIDED).any(0)] = DECIDED
        support[np.isin(classes.dataset, classes.dataset[rows])] = IMPOSSIBLE
        likely = np.flatnonzero(support > 0)
        best = {int(classes.dataset[y]): int(y) for y in likely[np.argsort(support[likely], kind="stable")]}
        wholes = [y for y in best.values() if not any(frozenset((x, y)) in apart for x in rows)]
        nodes.append(sorted((classes.keys[i] for i in (*rows, *wholes)), key=position.__getitem__))
    # Names are made of the classes of the cluster alone; alphabetically, so that the order of datasets does not matter.
    spelled = [
        sorted(((d, words(n) or n) for d, n in map(classes.keys.__getitem__, c)), key=lambda k: k[1]) for c in clusters
    ]
    names = node_names(spelled)
    order = sorted(range(len(clusters)), key=lambda k: min(position[classes.keys[i]] for i in clusters[k]))
    return Taxonomy.from_groups(spaces, [nodes[k] for k in order], [names[k] for k in order])


def _pairs(
    classes: JointClasses, kinds: Int[np.ndarray, "T T"], odds: Float[np.ndarray, "T T"], evidence: Evidence
) -> tuple[ClassPair, ...]:
    near = odds > LISTED
    rows, columns = np.nonzero(np.triu((kinds != UNRELATED) | near | near.T, 1) & classes.differ)
    likelier = sigmoid(np.maximum(odds[rows, columns], odds[columns, rows])).tolist()
    out = []
    for i, j, related in zip(rows.tolist(), columns.tolist(), likelier, strict=True):
        kind = KINDS[kinds[i, j]]
        score = 1 - related if kind == "unrelated" else max(related, 0.5)
        out.append(ClassPair(classes.keys[i], classes.keys[j], kind, round(score, 4), _reasons(evidence, i, j)))
    return tuple(sorted(out, key=lambda r: (r.kind == "unrelated", -r.score, r.a, r.b)))


def _reasons(evidence: Evidence, i: int, j: int) -> dict[str, float | str]:
    reasons: dict[str, float | str] = {}
    if evidence.same_name[i, j]:
        reasons["names"] = "equal"
    elif evidence.name_part[i, j] or evidence.name_part[j, i]:
        reasons["names"] = "part of" if evidence.name_part[i, j] else "contains"
    if evidence.lexicon is not None and (reason := evidence.lexicon.reason(i, j)):
        reasons["lexicon"] = reason
    if evidence.similarity is not None:
        reasons["text"] = round(float(evidence.similarity[i, j]), 3)
    if evidence.rates is not None:
        for key, x, y in (("confusion", i, j), ("confusion back", j, i)):
            if evidence.rates.known[x, y]:
                reasons[key] = round(float(evidence.rates.given_true[x, y]), 3)
    return reasons
