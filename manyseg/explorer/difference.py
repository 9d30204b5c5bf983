"""The difference of two taxonomies, by nodes and by classes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from manyseg.labels import ClassKey, Taxonomy

__all__ = ["Change", "Difference", "Move", "difference"]


class Change(NamedTuple):
    """A node that is added, removed, renamed or changed; `before` or `after` is "" if it is only in one taxonomy."""

    kind: str
    before: str
    after: str
    gained: tuple[ClassKey, ...]
    lost: tuple[ClassKey, ...]


class Move(NamedTuple):
    """A class whose nodes have changed; a class of only one of the taxonomies has no nodes in the other."""

    member: ClassKey
    before: tuple[str, ...]
    after: tuple[str, ...]


class Difference(NamedTuple):
    """All nodes and classes that differ; both are empty for equal taxonomies, in whatever order."""

    changes: tuple[Change, ...]
    moves: tuple[Move, ...]


def difference(before: Taxonomy, after: Taxonomy) -> Difference:
    """Compare two taxonomies by their nodes' members, not by the nodes' names or order.

    Each new node is paired with the old one that shares the largest part of their classes with it, equal ones first,
    at a tie the one of the same name; nodes without a pair are added or removed.
    """
    old, new = _members(before), _members(after)
    pairs = _pair(before, after, old, new)
    changes = []
    for v, members in enumerate(new):
        name = after.unified.names[v]
        if v not in pairs:
            changes.append(Change("added", "", name, tuple(members), ()))
            continue
        was, earlier = before.unified.names[pairs[v]], old[pairs[v]]
        gained = tuple(m for m in members if m not in earlier)
        lost = tuple(m for m in earlier if m not in members)
        if gained or lost:
            changes.append(Change("changed", was, name, gained, lost))
        elif was != name:
            changes.append(Change("renamed", was, name, (), ()))
    gone = sorted(set(range(len(old))) - set(pairs.values()))
    changes += [Change("removed", before.unified.names[u], "", (), tuple(old[u])) for u in gone]
    return Difference(tuple(changes), tuple(_moves(before, after, pairs)))


def _members(taxonomy: Taxonomy) -> list[dict[ClassKey, None]]:
    """List each node's classes, in order, for quick look-up."""
    return [dict.fromkeys(taxonomy.members(u)) for u in range(len(taxonomy.unified))]


def _pair(
    before: Taxonomy, after: Taxonomy, old: list[dict[ClassKey, None]], new: list[dict[ClassKey, None]]
) -> dict[int, int]:
    """Pair new nodes with old ones that share a class, best first, each at most once."""
    where: dict[ClassKey, list[int]] = {}
    for u, members in enumerate(old):
        for member in members:
            where.setdefault(member, []).append(u)
    candidates = []
    for v, members in enumerate(new):
        for u in {u for member in members for u in where.get(member, [])}:
            shared = len(old[u].keys() & members.keys())
            named = before.unified.names[u] == after.unified.names[v]
            candidates.append((-shared / len(old[u].keys() | members.keys()), not named, u, v))
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for *_, u, v in sorted(candidates):
        if u not in taken and v not in pairs:
            pairs[v] = u
            taken.add(u)
    return pairs


def _moves(before: Taxonomy, after: Taxonomy, pairs: dict[int, int]) -> list[Move]:
    old, new = _nodes(before), _nodes(after)
    out = []
    for member in {**new, **old}:
        was, now = old.get(member, []), new.get(member, [])
        # An added node has a negative number, which no old node has.
        if {pairs.get(v, -1 - v) for v in now} != set(was):
            names = tuple(before.unified.names[u] for u in was), tuple(after.unified.names[v] for v in now)
            out.append(Move(member, *names))
    return out


def _nodes(taxonomy: Taxonomy) -> dict[ClassKey, list[int]]:
    rows = zip(taxonomy.classes.keys, taxonomy.joint_relation, strict=True)
    return {key: np.flatnonzero(row).tolist() for key, row in rows}
