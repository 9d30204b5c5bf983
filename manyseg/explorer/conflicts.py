"""Pairs of classes to check: parts, overlaps, equal names without a common node, merges without evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from manyseg.labels import ClassKey, Taxonomy, normalise
from manyseg.relate import ClassPair

__all__ = ["KINDS", "Conflict", "conflicts", "pair_key"]

KINDS = ("same dataset", "unsupported merge", "missing merge", "same name", "overlaps", "part of")
"""Kinds of conflict, the most likely mistakes first."""

_OPPOSITE = {"part of": "contains", "contains": "part of"}


class Conflict(NamedTuple):
    """Two classes in conflict; `kind` is one of KINDS, "part of" means that a is part of b.

    `taxonomy` and `evidence` are the relation of a to b by each (evidence is "" if there is none); `score` is that of
    the evidence. `node` is a unified node of one of them.
    """

    kind: str
    a: ClassKey
    b: ClassKey
    taxonomy: str
    evidence: str
    score: float | None
    node: int


def conflicts(taxonomy: Taxonomy, pairs: Sequence[ClassPair] = ()) -> list[Conflict]:
    """Find every conflict of a taxonomy and of the evidence about its classes, by kind, then in order of classes.

    - "same dataset": two classes of one dataset share a node, so that the node cannot distinguish them;
    - "unsupported merge": two classes are equal by the taxonomy, unrelated by the evidence;
    - "missing merge": two classes are equal by the evidence, unrelated by the taxonomy;
    - "same name": two classes of equal (normalised) names share no node;
    - "overlaps", "part of": by the evidence, and something else by the taxonomy.

    Where taxonomy and evidence agree, or there is no evidence about what the taxonomy says, there is no conflict.
    Nor is there one where equal classes share a node, and one of them has further nodes, of finer classes elsewhere.
    """
    known = {pair_key(r.a, r.b): r for r in pairs}
    nodes = {
        key: frozenset(np.flatnonzero(row).tolist())
        for key, row in zip(taxonomy.classes.keys, taxonomy.joint_relation, strict=True)
    }
    out = []
    for a, b in _pairs(taxonomy, nodes, known):
        by_taxonomy = _relation(nodes[a], nodes[b])
        pair = known.get(pair_key(a, b))
        by_evidence = "" if pair is None else _kind_from(a, pair)
        kind = _kind(a, b, by_taxonomy, by_evidence)
        if by_evidence == "contains":
            a, b = b, a
            by_taxonomy, by_evidence = (_OPPOSITE.get(k, k) for k in (by_taxonomy, by_evidence))
        if kind:
            shared = nodes[a] & nodes[b]
            score = pair.score if pair else None
            out.append(Conflict(kind, a, b, by_taxonomy, by_evidence, score, min(shared or nodes[a])))
    return sorted(out, key=lambda c: KINDS.index(c.kind))


def pair_key(a: ClassKey, b: ClassKey) -> tuple[ClassKey, ClassKey]:
    """Return the pair in alphabetical order, as a key."""
    return (a, b) if a <= b else (b, a)


def _pairs(
    taxonomy: Taxonomy, nodes: Mapping[ClassKey, frozenset[int]], known: Mapping[tuple[ClassKey, ClassKey], ClassPair]
) -> Iterator[tuple[ClassKey, ClassKey]]:
    """Yield every pair that shares a node, a name or a relation, once; of all pairs there may be millions."""
    order = {c: i for i, c in enumerate(nodes)}
    groups: dict[object, list[ClassKey]] = {}
    for member, where in nodes.items():
        for key in (*where, normalise(member[1])):
            groups.setdefault(key, []).append(member)
    near = {pair for group in groups.values() for pair in combinations(group, 2)}
    near |= {(a, b) if order[a] < order[b] else (b, a) for a, b in known if a in order and b in order}
    yield from sorted(near, key=lambda pair: (order[pair[0]], order[pair[1]]))


def _relation(a: frozenset[int], b: frozenset[int]) -> str:
    if not a & b:
        return "unrelated"
    if a == b:
        return "equal"
    return "part of" if a < b else "contains" if a > b else "overlaps"


def _kind_from(a: ClassKey, pair: ClassPair) -> str:
    """Return the pair's kind as if `a` were its first class."""
    return pair.kind if pair.a == a else _OPPOSITE.get(pair.kind, pair.kind)


def _kind(a: ClassKey, b: ClassKey, by_taxonomy: str, by_evidence: str) -> str:
    """Return the kind of conflict of a pair, or "" if there is none."""
    if a[0] == b[0]:
        return "same dataset" if by_taxonomy != "unrelated" else ""
    if by_taxonomy == "unrelated" and by_evidence != "equal" and normalise(a[1]) == normalise(b[1]):
        return "same name"
    if by_taxonomy == by_evidence or not by_evidence:
        return ""
    if by_evidence == "equal" and by_taxonomy in ("part of", "contains"):
        return ""
    wrong = {"equal": "missing merge", "unrelated": "unsupported merge", "overlaps": "overlaps"}
    return wrong.get(by_evidence, "part of")
