"""How fast a person's answers improve a proposal: 448 classes of seven datasets, experts as the person.

    python benchmarks/questions.py [text|both [WIDTH [ORDER]]]          needs MANYSEG_DATA and the extra `offline`

Two groups of experts say which classes are related. Where they agree, their answer is given; where they differ, the
answer is "don't know". How two related classes relate (same, part) is read off each group's universal classes; the
first group's reading counts. Score: precision against the union of both groups' pairs, recall against their consensus,
and F1. An answer is one question, with its number of classes beside it: up to 8, or a single pair.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import combinations, product
from pathlib import Path

import numpy as np
from labels7 import labels7, pairs_of

from manyseg.models.text import TextEncoder
from manyseg.relate.proposal import Problem
from manyseg.relate.questions import Questions

DATA = Path(os.environ.get("MANYSEG_DATA", "."))
AT = (0, 10, 25, 50, 60, 100, 200)


class Experts:
    """Answers by consensus; `labelled` are the classes that both groups know."""

    def __init__(self, groups, labelled):
        self.groups, self.labelled = groups, labelled

    def reply(self, x, y):
        """Say how y relates to x, as a person would."""
        if x not in self.labelled or y not in self.labelled:
            return "unknown"
        first, second = (related(g, x, y) for g in self.groups)
        if first != second:
            return "unknown"
        return self.kind(self.groups[0], x, y) if first else "none"

    def kind(self, universal, x, y):
        """Return "same", unless a class shares its universal classes with others of its dataset: then it is a part."""

        def others(key, of):
            return any(k[0] == key[0] and k != key and universal[k] & universal[of] for k in universal)

        part, whole = others(y, x), others(x, y)
        return "unknown" if part and whole else "part" if part else "whole" if whole else "same"


def scores(found, experts):
    """Precision against the union of both groups' pairs, recall against their consensus, and F1."""
    pairs = [
        {p for p in map(frozenset, combinations(experts.labelled, 2)) if len({k[0] for k in p}) > 1 and related(g, *p)}
        for g in experts.groups
    ]
    found = {p for p in found if p <= experts.labelled}
    precision = len(found & (pairs[0] | pairs[1])) / max(len(found), 1)
    recall = len(found & pairs[0] & pairs[1]) / len(pairs[0] & pairs[1])
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)


def related(universal, x, y):
    return bool(universal[x] & universal[y])


def least_certain(questions, rng):
    wrong = questions.wrong()
    return questions.ask(int(wrong.max(1).argmax()), wrong[int(wrong.max(1).argmax())])


def at_random(questions, rng):
    wrong = questions.wrong()
    if not wrong.any():
        return None
    row = int(rng.choice(np.flatnonzero(wrong.any(1))))
    return questions.ask(row, np.where(wrong[row] > 0, rng.random(len(wrong)), 0))


def expected_change(questions, rng):
    return questions.next()


def curve(problem, experts, order, width):
    questions, rng = Questions(problem, width=width), np.random.default_rng(0)
    asked, classes, slowest, out = 0, 0, 0.0, []
    for goal in AT:
        while asked < goal and (question := order(questions, rng)) is not None:
            start = time.perf_counter()
            questions.answer(question.about, {c.key: experts.reply(question.about, c.key) for c in question.candidates})
            slowest = max(slowest, time.perf_counter() - start)
            asked, classes = asked + 1, classes + len(question.candidates)
        out.append((goal, asked, classes, *scores(pairs_of(problem.solve(questions.constraints).pairs), experts)))
    return out, slowest


ORDERS = {order.__name__: order for order in (expected_change, least_certain, at_random)}


def main(by=None, width=None, order=None):
    if not (DATA / "labels7").exists():
        print("skipped: there is no folder labels7 in the one that the environment variable MANYSEG_DATA names")
        return 0
    spaces, confusion, _, groups, (_, _, labelled) = labels7()
    experts = Experts(groups, labelled)
    encode = TextEncoder().encode
    for evidence in (by,) if by else ("both", "text"):
        problem = Problem.of(spaces, evidence, encode, confusion)
        for size, name in product([int(width)] if width else (8, 1), [order] if order else ORDERS):
            start = time.perf_counter()
            found, slowest = curve(problem, experts, ORDERS[name], size)
            print(f"{evidence}, up to {size} classes an answer, {name}", end=": ")
            print(f"{time.perf_counter() - start:.0f} s, slowest answer {slowest:.2f} s")
            for goal, asked, classes, p, r, f in found:
                print(f"   {goal:4d} answers ({asked}, {classes} classes)  {p:.3f} {r:.3f} {f:.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
