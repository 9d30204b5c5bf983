"""Propose the unified label space of several datasets, with the reason for every relation, before any training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from manyseg.errors import UserError
from manyseg.labels import LabelSpace, Taxonomy, normalise
from manyseg.relate.calibrate import compete, cross_log_odds, decoy_log_odds, logit, sigmoid, suit_datasets
from manyseg.relate.evidence import (
    TEMPLATES,
    Encode,
    Flat,
    Shares,
    cell_sums,
    check_names,
    name_evidence,
    shares,
    text_similarity,
    words,
)
from manyseg.relate.pins import Pins
from manyseg.relate.programme import partition

__all__ = ["Proposal", "Relation", "propose"]

By = Literal["names", "text", "confusion", "both"]
Kind = Literal["equal", "part of", "contains", "overlaps", "unrelated"]

CERTAIN = 5.0
"""Log-odds of what names say outright; what is impossible has its negative, many times over."""
NEVER = -40.0
NEAR = 0.1
"""Unrelated pairs are listed down to this probability of being related."""
ROUNDS = 3
"""Clusters pool the evidence that clusters are made of; three rounds are enough for it to settle, nearly."""
FEW = 10
"""Fewer equal names than this cannot calibrate texts and confusions by each other."""


@dataclass(frozen=True)
class Relation:
    """How class `a` (dataset, class) relates to class `b` of another dataset.

    `kind` is "equal", "part of" (a within b), "contains", "overlaps" or "unrelated".
    `score` in 0..1 is the probability of that kind, as far as the evidence is calibrated. `evidence` says why: the
    `names`, the cosine of the `text`, and of the `confusion` the shares of a's pixels called b and of b's called a.
    """

    a: tuple[str, str]
    b: tuple[str, str]
    kind: Kind
    score: float
    evidence: Mapping[str, float | str]


@dataclass(frozen=True)
class Proposal:
    """A taxonomy to accept or correct, and the relations it rests on, surest first."""

    taxonomy: Taxonomy
    relations: tuple[Relation, ...]


def propose(
    spaces: Sequence[LabelSpace],
    *,
    by: By = "text",
    encode: Encode | None = None,
    confusion: Mapping[str, np.ndarray] | None = None,
    pins: Pins | None = None,
    templates: Sequence[str] = TEMPLATES,
) -> Proposal:
    """Find equal, part-of and overlapping classes, and build the unified space from them.

    `by` "text" and "both" need `encode`; "confusion" and "both" need `confusion`: counts `a__b`, [i, j] = pixels of
    class i of a that b's head called j. Nothing is tuned on known relations (see `calibrate`), nothing is random, and
    the order of datasets and classes does not matter. Raises UserError on evidence that is missing or misshapen.
    """
    pins = pins or Pins()
    pins.check(spaces)
    Taxonomy.disjoint(spaces)  # refuses two datasets of one name
    ordered = [LabelSpace(s.name, tuple(sorted(s.classes, key=lambda c: c.name))) for s in spaces]
    flat = Flat(tuple(sorted(ordered, key=lambda s: s.name)))
    evidence = _gather(spaces, flat, by, encode, confusion, templates)
    index = {label: i for i, label in enumerate(flat.labels)}
    must, must_not = ([(index[x], index[y]) for x, y in pairs] for pairs in (pins.must, pins.must_not))
    odds, clusters = _settle(flat, evidence, must, must_not)
    for x, y in must_not:
        odds[x, y] = odds[y, x] = NEVER
    group = _groups(len(flat), clusters)
    kinds = _kinds(flat, group, odds)
    return Proposal(
        _taxonomy(spaces, flat, clusters, kinds, odds, must_not), _relations(flat, group, kinds, odds, evidence)
    )


@dataclass(frozen=True)
class _Evidence:
    """All that is known of the pairs; `prior` are log-odds before confusions, symmetric."""

    same_name: Bool[np.ndarray, "T T"]
    name_part: Bool[np.ndarray, "T T"]
    similarity: Float[np.ndarray, "T T"] | None
    prior: Float[np.ndarray, "T T"] | None
    shares: Shares | None


def _gather(
    spaces: Sequence[LabelSpace],
    flat: Flat,
    by: By,
    encode: Encode | None,
    confusion: Mapping[str, np.ndarray] | None,
    templates: Sequence[str],
) -> _Evidence:
    if by not in ("names", "text", "confusion", "both"):
        raise UserError(f"labels cannot be related by '{by}'; choose names, text, confusion or both")
    same, part = name_evidence(flat)
    similarity = prior = known = None
    if by in ("text", "both"):
        if encode is None:
            raise UserError(f"relating labels by {by} needs a text encoder; give one, or relate them by names")
        similarity = text_similarity(flat, encode, templates)
        upper = np.triu(np.ones(similarity.shape, bool), 1)
        a, b = decoy_log_odds(similarity[upper & flat.cross], similarity[upper & ~flat.cross])
        prior = suit_datasets(a + b * similarity.astype(np.float64), flat.ranges)
        prior = np.where(same, np.maximum(prior, CERTAIN), prior)
    if by in ("confusion", "both"):
        if not confusion:
            raise UserError(f"relating labels by {by} needs confusions 'a__b'; give some, or relate labels by text")
        given = Flat(tuple(spaces))
        check_names(given, confusion)
        position = {label: i for i, label in enumerate(given.labels)}
        known = shares(given, confusion).take([position[label] for label in flat.labels])
    if by == "names":
        prior = np.where(same, CERTAIN, NEVER)
    return _Evidence(same, part, similarity, prior, known)


def _settle(
    flat: Flat, evidence: _Evidence, must: Sequence[tuple[int, int]], must_not: Sequence[tuple[int, int]]
) -> tuple[Float[np.ndarray, "T T"], list[tuple[int, ...]]]:
    """Directed log-odds [x, y] that x is y or part of it, and the clusters of equal classes."""
    T = len(flat)
    prior = np.full((T, T), NEVER) if evidence.prior is None else np.where(flat.cross, evidence.prior, NEVER)
    clusters = partition(prior, flat.dataset, must, must_not)
    if evidence.shares is None:
        if evidence.similarity is None:
            return _said(flat, evidence, prior, _groups(T, clusters)), clusters
        return _said(flat, evidence, compete(prior, flat.ranges), _groups(T, clusters)), clusters
    for _ in range(ROUNDS):
        group = _groups(T, clusters)
        odds = compete(_with_confusion(flat, evidence, group), flat.ranges)
        odds = _said(flat, evidence, odds, group)
        equal = np.maximum(np.minimum(odds, odds.T), prior)
        settled = partition(equal, flat.dataset, must, must_not)
        if settled == clusters:
            break
        clusters = settled
    return odds, clusters


def _said(
    flat: Flat, evidence: _Evidence, odds: Float[np.ndarray, "T T"], group: Int[np.ndarray, " T"]
) -> Float[np.ndarray, "T T"]:
    """Let a name that says to be part of another count for as much as it says, and so for the equals of its class.

    By confusion alone, names say nothing. A dataset that has a class in the cluster has no other that contains it.
    """
    if evidence.prior is not None:
        sums = np.zeros((int(group.max()) + 1, len(flat)), np.float32)
        np.add.at(sums, group, evidence.name_part)
        part = sums[group] > 0
        odds = np.where(part & _free(flat, group), np.maximum(odds, CERTAIN), odds)
    return np.where(flat.cross, odds, NEVER)


def _with_confusion(flat: Flat, evidence: _Evidence, group: Int[np.ndarray, " T"]) -> Float[np.ndarray, "T T"]:
    """Join text and confusion as independent witnesses, less what they have in common."""
    assert evidence.shares is not None
    share, seen, free = _pooled(flat, evidence.shares, group)
    seen &= flat.cross
    visual = logit(share)
    if evidence.similarity is None or evidence.prior is None:
        return np.where(seen, visual, NEVER)  # more than half of x's pixels go to y
    same = seen & evidence.same_name
    out = np.where(free, evidence.prior, NEVER)
    if same.sum() < FEW:
        return np.where(seen, evidence.prior + visual, out)
    s, g, named = evidence.similarity[seen].astype(np.float64), share[seen], evidence.same_name[seen]
    text = cross_log_odds(s, g, g[s < np.median(s)].mean(), g[named].mean())
    p = sigmoid(text)
    sight = cross_log_odds(g, p, p[g <= np.median(g)].mean(), p[named].mean())
    base = float(logit(np.array(p.mean())))
    unlike = group[np.nonzero(seen)[0]] != group[np.nonzero(seen)[1]]
    # What is near in meaning looks alike too, also where it is not the same: two detectors whose noise correlates by
    # rho are worth 2 / (1 + rho) of one (the weights of the best linear detector).
    rho = _correlation(text[unlike], sight[unlike])
    out[seen] = base + (text + sight - 2 * base) / (1 + max(rho, 0.0))
    return out


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or x.std() < 1e-9 or y.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _pooled(
    flat: Flat, known: Shares, group: Int[np.ndarray, " T"]
) -> tuple[Float[np.ndarray, "T T"], Bool[np.ndarray, "T T"], Bool[np.ndarray, "T T"]]:
    """Share of x that goes to y, from all pairs of their clusters; whether there are any; whether y may hold x.

    The share is the geometric mean of both readings (see `Shares`), each the mean over the pairs. Pairs do not count
    where y's dataset has a class in x's cluster, unless that is y's own: x's pixels go there, whatever contains it.
    """
    free = _free(flat, group)
    use = (free & known.known).astype(np.float32)
    count = cell_sums(use, group)
    means = [cell_sums(m * use, group) / np.maximum(count, 1) for m in (known.called, known.found)]
    cells = np.sqrt(means[0] * means[1]).astype(np.float64)
    possible = cell_sums(free.astype(np.float32), group) > 0
    pair = np.ix_(group, group)
    return cells[pair], (count > 0)[pair], possible[pair]


def _free(flat: Flat, group: Int[np.ndarray, " T"]) -> Bool[np.ndarray, "T T"]:
    """[x, y]: y may hold x, as its dataset has no class in x's cluster, unless that is y itself."""
    has = np.zeros((int(group.max()) + 1, len(flat.spaces)), bool)
    has[group, flat.dataset] = True
    free: Bool[np.ndarray, "T T"] = flat.cross & (~has[group][:, flat.dataset] | (group[:, None] == group[None]))
    return free


def _groups(T: int, clusters: Sequence[tuple[int, ...]]) -> Int[np.ndarray, " T"]:
    group = np.empty(T, int)
    for g, members in enumerate(clusters):
        group[list(members)] = g
    return group


KINDS: tuple[Kind, ...] = ("unrelated", "equal", "part of", "contains", "overlaps")


def _kinds(flat: Flat, group: Int[np.ndarray, " T"], odds: Float[np.ndarray, "T T"]) -> Int[np.ndarray, "T T"]:
    """Kind of every pair, a position in KINDS; [x, y] says how x relates to y.

    Where both directions are likely but the two are not one node, the dataset that has both x and a namesake of y
    tells them apart, so x is the narrower one.
    """
    has = np.zeros((int(group.max()) + 1, len(flat.spaces)), bool)
    has[group, flat.dataset] = True
    into = (odds > 0) & flat.cross
    twin = has[group][:, flat.dataset].T  # [x, y]: y's cluster has a class of x's dataset
    one = into & ~into.T
    both = into & into.T
    part = one | (both & twin & ~twin.T)
    out = np.zeros(odds.shape, np.int8)
    out[both] = 4
    out[part.T] = 3
    out[part] = 2
    out[(group[:, None] == group[None]) & flat.cross] = 1
    return out


def _taxonomy(
    spaces: Sequence[LabelSpace],
    flat: Flat,
    clusters: Sequence[tuple[int, ...]],
    kinds: Int[np.ndarray, "T T"],
    odds: Float[np.ndarray, "T T"],
    must_not: Sequence[tuple[int, int]],
) -> Taxonomy:
    """Give every cluster a node, and the node to the class that contains it in each dataset that lacks it."""
    apart = {frozenset(p) for p in must_not}
    groups: list[list[int]] = []
    for members in clusters:
        rows = list(members)
        support = np.where((kinds[rows] == 2).any(0), odds[rows].mean(0), NEVER)
        support[np.isin(flat.dataset, flat.dataset[rows])] = NEVER
        best: dict[int, int] = {}
        for y in np.flatnonzero(support > 0)[np.argsort(support[support > 0], kind="stable")]:
            best[int(flat.dataset[y])] = int(y)
        owners = [*rows, *(y for y in best.values() if not any(frozenset((x, y)) in apart for x in rows))]
        groups.append(owners)
    place = {(s.name, n): (k, i) for k, s in enumerate(spaces) for i, n in enumerate(s.names)}
    names = _node_names(flat, clusters)
    first = [min(place[flat.labels[i]] for i in c) for c in clusters]
    order = sorted(range(len(clusters)), key=first.__getitem__)
    nodes = [sorted((flat.labels[i] for i in groups[k]), key=place.__getitem__) for k in order]
    return Taxonomy.from_groups(spaces, nodes, [names[k] for k in order])


def _node_names(flat: Flat, clusters: Sequence[tuple[int, ...]]) -> list[str]:
    """Name every node by its commonest class name, in words; where that is taken, with a dataset, then a number."""
    taken: set[str] = set()
    out = []
    for k, members in enumerate(clusters):
        labels = [flat.labels[i] for i in members]
        votes = Counter(normalise(words(n)) for _, n in labels)
        best = min(labels, key=lambda x: (-votes[normalise(words(x[1]))], len(words(x[1])), x[1]))
        base = words(best[1]) or best[1]
        name = next(n for n in (base, f"{base} ({best[0]})", f"{base} #{k}") if n not in taken)
        taken.add(name)
        out.append(name)
    return out


def _relations(
    flat: Flat,
    group: Int[np.ndarray, " T"],
    kinds: Int[np.ndarray, "T T"],
    odds: Float[np.ndarray, "T T"],
    evidence: _Evidence,
) -> tuple[Relation, ...]:
    p = sigmoid(odds)
    strongest = np.maximum(p, p.T)
    out = []
    for i, j in np.argwhere(np.triu((kinds > 0) | (strongest > NEAR), 1) & flat.cross):
        kind = KINDS[kinds[i, j]]
        sure = float(strongest[i, j])
        score = 1 - sure if kind == "unrelated" else max(sure, 0.5)
        out.append(Relation(flat.labels[i], flat.labels[j], kind, round(score, 4), _reasons(evidence, i, j)))
    return tuple(sorted(out, key=lambda r: (r.kind == "unrelated", -r.score, r.a, r.b)))


def _reasons(evidence: _Evidence, i: int, j: int) -> dict[str, float | str]:
    reasons: dict[str, float | str] = {}
    if evidence.same_name[i, j]:
        reasons["names"] = "equal"
    elif evidence.name_part[i, j] or evidence.name_part[j, i]:
        reasons["names"] = "part of" if evidence.name_part[i, j] else "contains"
    if evidence.similarity is not None:
        reasons["text"] = round(float(evidence.similarity[i, j]), 3)
    if evidence.shares is not None:
        for key, x, y in (("confusion", i, j), ("confusion back", j, i)):
            if evidence.shares.known[x, y]:
                reasons[key] = round(float(evidence.shares.called[x, y]), 3)
    return reasons
