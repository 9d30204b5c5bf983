"""What to look at first: the classes with the most doubtful relations, each with the classes that are in doubt."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from manyseg.labels import ClassKey, Taxonomy
from manyseg.relate import ClassPair

__all__ = ["review"]

DOUBT = 0.05
"""A relation of at least this probability of being wrong is to be looked at."""

TOGETHER = 8
"""The number of classes that are shown beside one, at most."""


def review(taxonomy: Taxonomy, pairs: Sequence[ClassPair]) -> list[tuple[ClassKey, list[ClassKey]]]:
    """List classes, those of the largest sum of doubts first, each with those that it may be related to.

    The doubt of a pair is 1 less its score, or the score where the evidence finds it related and no node of the
    taxonomy is common to both. Every pair is listed once; the most doubtful of a class come first.
    """
    known = taxonomy.classes.positions
    relation = taxonomy.joint_relation
    doubts: dict[ClassKey, dict[ClassKey, float]] = {}
    for p in pairs:
        if p.a not in known or p.b not in known:
            continue
        shared = bool((relation[known[p.a]] & relation[known[p.b]]).any())
        doubt = 1 - p.score if shared == (p.kind != "unrelated") else p.score
        if doubt >= DOUBT:
            doubts.setdefault(p.a, {})[p.b] = doubt
            doubts.setdefault(p.b, {})[p.a] = doubt
    waiting = [(-_sum(others), known[key], key) for key, others in doubts.items()]
    heapq.heapify(waiting)
    out = []
    while waiting:
        before, _, key = heapq.heappop(waiting)
        now = -_sum(doubts[key])
        if now > before + 1e-12:  # Some of its pairs were listed with other classes since.
            if now < 0:
                heapq.heappush(waiting, (now, known[key], key))
            continue
        others = sorted(doubts[key], key=lambda k: (-doubts[key][k], known[k]))[:TOGETHER]
        for other in others:
            del doubts[key][other], doubts[other][key]
        out.append((key, others))
        if doubts[key]:
            heapq.heappush(waiting, (-_sum(doubts[key]), known[key], key))
    return out


def _sum(others: dict[ClassKey, float]) -> float:
    return sum(sorted(others.values(), reverse=True)[:TOGETHER])
