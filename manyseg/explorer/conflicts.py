"""Where labels disagree: part of, overlaps, one name for two things, and merges that the evidence speaks against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from manyseg.labels import ClassKey, Taxonomy, normalise
from manyseg.relate import ClassPair

__all__ = ["KINDS", "Conflict", "conflicts", "pair_key"]

KINDS = ("two of one", "against", "apart", "namesakes", "overlaps", "part of")
"""Kinds of conflict, the most suspicious first."""

_OPPOSITE = {"part of": "contains", "contains": "part of"}


class Conflict(NamedTuple):
    """Two classes that disagree; `kind` is one of KINDS, read "a is part of b" and so on.

    `taxonomy` and `evidence` say how each sees the pair (evidence "" where none is on record); `score` is that of the
    evidence. `node` is a unified node to look at.
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

    - "two of one": two classes of one dataset share a node, so the node cannot tell them apart;
    - "against": the taxonomy calls two classes equal, the evidence unrelated;
    - "apart": the evidence calls two classes equal, the taxonomy unrelated;
    - "namesakes": equal (normalised) names that share no node;
    - "overlaps", "part of": as the taxonomy has it or, where it keeps the two apart, as the evidence has it.
    """
    known = {pair_key(r.a, r.b): r for r in pairs}
    nodes = {
        key: frozenset(np.flatnonzero(row).tolist())
        for key, row in zip(taxonomy.classes.keys, taxonomy.joint_relation, strict=True)
    }
    out = []
    for a, b in _pairs(taxonomy, nodes, known):
        seen = _sets(nodes[a], nodes[b])
        pair = known.get(pair_key(a, b))
        said = "" if pair is None else _seen_from(a, pair)
        kind = _kind(a, b, seen, said)
        if "contains" in (seen if seen != "unrelated" else said, ""):
            a, b, seen, said = b, a, _OPPOSITE.get(seen, seen), _OPPOSITE.get(said, said)
        if kind:
            shared = nodes[a] & nodes[b]
            out.append(Conflict(kind, a, b, seen, said, pair.score if pair else None, min(shared or nodes[a])))
    return sorted(out, key=lambda c: KINDS.index(c.kind))


def pair_key(a: ClassKey, b: ClassKey) -> tuple[ClassKey, ClassKey]:
    """Return the pair in one order, whichever comes first."""
    return (a, b) if a <= b else (b, a)


def _pairs(
    taxonomy: Taxonomy, nodes: Mapping[ClassKey, frozenset[int]], known: Mapping[tuple[ClassKey, ClassKey], ClassPair]
) -> Iterator[tuple[ClassKey, ClassKey]]:
    """Yield once each pair that shares a node, a name or a relation: not all pairs, of which there are millions."""
    order = {c: i for i, c in enumerate(nodes)}
    groups: dict[object, list[ClassKey]] = {}
    for member, where in nodes.items():
        for key in (*where, normalise(member[1])):
            groups.setdefault(key, []).append(member)
    near = {pair for group in groups.values() for pair in combinations(group, 2)}
    near |= {(a, b) if order[a] < order[b] else (b, a) for a, b in known if a in order and b in order}
    yield from sorted(near, key=lambda pair: (order[pair[0]], order[pair[1]]))


def _sets(a: frozenset[int], b: frozenset[int]) -> str:
    if not a & b:
        return "unrelated"
    if a == b:
        return "equal"
    return "part of" if a < b else "contains" if a > b else "overlaps"


def _seen_from(a: ClassKey, pair: ClassPair) -> str:
    """Return the pair's kind as if `a` were its first class."""
    return pair.kind if pair.a == a else _OPPOSITE.get(pair.kind, pair.kind)


def _kind(a: ClassKey, b: ClassKey, seen: str, said: str) -> str:
    """Name the conflict of a pair, or "" where there is none."""
    if a[0] == b[0]:
        return "two of one" if seen != "unrelated" else ""
    if seen == "equal":
        return "against" if said == "unrelated" else ""
    if seen == "unrelated" and said == "equal":
        return "apart"
    if seen == "unrelated" and normalise(a[1]) == normalise(b[1]):
        return "namesakes"
    shown = seen if seen != "unrelated" else said
    return {"part of": "part of", "contains": "part of", "overlaps": "overlaps"}.get(shown, "")
