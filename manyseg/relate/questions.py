"""Which classes to ask a person about, so that few answers change most of what is wrong in a proposal.

A question shows one class and some classes of other datasets; an answer says of each of these how it relates to the
first. The question asked next is the one that is expected to change most: of every pair, the probability that the
proposal is wrong about it, times the number of classes that follow, as they are one with the first.

Axes: T classes of all datasets together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from manyseg.labels import ClassKey
from manyseg.relate.calibrate import sigmoid
from manyseg.relate.constraints import Constraints
from manyseg.relate.decisions import DECIDED, Decisions
from manyseg.relate.log_odds import cluster, cluster_numbers, equal_log_odds
from manyseg.relate.programme import partition
from manyseg.relate.proposal import KINDS, UNRELATED, Kind, Problem, Proposal, kinds_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["Candidate", "Question", "Questions", "Reply"]

Reply = Literal["same", "part", "whole", "none", "unknown"]
"""What a person says of a candidate: the same as the class, a part of it, holds it, none of these, or nobody knows."""

WIDTH = 8
"""The number of candidates of a question, at most."""

WORTH = 0.001
"""A pair is shown if the proposal is wrong about it with at least this probability."""


@dataclass(frozen=True)
class Candidate:
    """A class that may be related: how it is to the class of the question by the proposal, and how sure that is."""

    key: ClassKey
    kind: Kind
    score: float


@dataclass(frozen=True)
class Question:
    """How do the `candidates` relate to the class `about`? `same` are the classes that are one with it so far.

    `change` is the number of pairs that the answer is expected to correct.
    """

    about: ClassKey
    same: tuple[ClassKey, ...]
    candidates: tuple[Candidate, ...]
    change: float


class Questions:
    """A proposal that answers change, and the question to ask next.

    An answer solves anew only the connected components that it touches, with the evidence as it was at the start;
    `Problem.solve` with the `constraints` at the end calibrates that anew, too.
    """

    def __init__(self, problem: Problem, constraints: Constraints | None = None, width: int = WIDTH) -> None:
        self.problem, self.width = problem, width
        self._history = [constraints or Constraints()]
        self.constraints.check(problem.spaces)
        self._decisions = Decisions.of(self.constraints, problem.classes)
        d = self._decisions
        self._evidence, self._clusters = cluster(problem.classes, problem.evidence, d.must_link, d.unequal)
        self._odds = d.pin(self._evidence, self._clusters)

    @property
    def constraints(self) -> Constraints:
        """All that was decided, before and by the answers so far."""
        return self._history[-1]

    @property
    def proposal(self) -> Proposal:
        """The proposal as it is with the answers so far."""
        return self.problem.proposal(self._decisions, self._odds, self._clusters)

    def answer(self, about: ClassKey, replies: Mapping[ClassKey, Reply]) -> None:
        """Keep what a person said about classes; raises UserError, and keeps nothing, if it contradicts what was said.

        A class may be answered more than once: the last reply counts.
        """
        known = self.constraints
        pairs = {frozenset((about, key)) for key in replies}
        kept = {
            name: [p for p in getattr(known, name) if frozenset(p) not in pairs]
            for name in ("must_link", "cannot_link", "part_of", "unsure")
        }
        for key, reply in replies.items():
            name = {"same": "must_link", "none": "cannot_link", "unknown": "unsure"}.get(reply, "part_of")
            kept[name].append((key, about) if reply == "part" else (about, key))
        constraints = replace(known, **{name: tuple(p) for name, p in kept.items()})
        constraints.check(self.problem.spaces)
        self._turn_to(constraints)
        self._history.append(constraints)

    def undo(self) -> bool:
        """Take back the last answer; say whether there was one."""
        if len(self._history) == 1:
            return False
        self._turn_to(self._history[-2])
        del self._history[-1]
        return True

    def _turn_to(self, constraints: Constraints) -> None:
        """Solve anew what differs under other constraints."""
        classes, decisions = self.problem.classes, Decisions.of(constraints, self.problem.classes)
        changed = {
            i
            for name in ("must_link", "apart", "within")
            for pair in set(getattr(decisions, name)) ^ set(getattr(self._decisions, name))
            for i in pair
        }
        # Whatever may share a cluster with a class that changed, by the odds before or after.
        odds = decisions.pin(self._evidence)
        weight = equal_log_odds(self.problem.evidence, odds)
        linked = weight > 0
        for x, y in decisions.must_link:
            linked[x, y] = linked[y, x] = True
        touched = np.zeros(len(classes), bool)
        touched[list(changed)] = True
        for members in self._clusters:
            touched[list(members)] |= touched[list(members)].any()
        while (grown := touched | linked[touched].any(0)).sum() > touched.sum():
            touched = grown
        rows = np.flatnonzero(touched)
        place = {int(i): k for k, i in enumerate(rows)}
        inside, unequal = (
            [(place[x], place[y]) for x, y in pairs if x in place and y in place]
            for pairs in (decisions.must_link, decisions.unequal)
        )
        names = [":".join(classes.keys[i]) for i in rows]
        found = partition(weight[np.ix_(rows, rows)], classes.dataset[rows], inside, unequal, names)
        others = [c for c in self._clusters if not touched[c[0]]]
        self._clusters = sorted([*others, *(tuple(int(rows[k]) for k in c) for c in found)])
        self._decisions, self._odds = decisions, decisions.pin(self._evidence, self._clusters)

    def next(self) -> Question | None:
        """Return the question whose answer is expected to change most, or None if no pair is open."""
        return next(iter(self.batch(1)), None)

    def batch(self, count: int, doubt: float = 0.0) -> list[Question]:
        """Return up to `count` questions, those that are expected to change most first; none asks for another's pairs.

        Only pairs that the proposal is wrong about with at least the probability `doubt` are in them.
        """
        wrong = self.wrong()
        wrong[wrong < doubt] = 0
        group = cluster_numbers(self._clusters)
        follow = np.bincount(group)[group]
        out: list[Question] = []
        while len(out) < count:
            top = -np.partition(-wrong, min(self.width, len(wrong) - 1), axis=1)[:, : self.width]
            best = int((top.sum(1) * follow).argmax())
            question = self.ask(best, wrong[best])
            if question is None:
                break
            out.append(question)
            shown = [self.problem.classes.positions[c.key] for c in question.candidates]
            wrong[best, shown] = wrong[shown, best] = 0
        return out

    def ask(self, row: int, wrong: Float[np.ndarray, " T"]) -> Question | None:
        """Return the question about the class at `row`: its candidates are those of the largest `wrong`; or None."""
        keys, group = self.problem.classes.keys, cluster_numbers(self._clusters)
        shown = [int(y) for y in np.argsort(-wrong, kind="stable")[: self.width] if wrong[y] > 0]
        if not shown:
            return None
        kinds = kinds_of(self.problem.classes, group, self._odds)[row]
        related = self._related()[row]
        candidates = [
            Candidate(keys[y], KINDS[kinds[y]], float(1 - related[y] if kinds[y] == UNRELATED else related[y]))
            for y in sorted(shown, key=lambda y: -related[y])
        ]
        same = tuple(keys[i] for i in np.flatnonzero(group == group[row]) if i != row)
        change = float(wrong[shown].sum()) * (1 + len(same))
        return Question(keys[row], same, tuple(candidates), change)

    def wrong(self) -> Float[np.ndarray, "T T"]:
        """Return the probability that the proposal is wrong about a pair being related; 0 where nothing is open."""
        kinds = kinds_of(self.problem.classes, cluster_numbers(self._clusters), self._odds)
        related = self._related()
        out = np.where(kinds == UNRELATED, related, 1 - np.maximum(related, 0.5))
        out[~self._open() | (out < WORTH)] = 0
        return out

    def _related(self) -> Float[np.ndarray, "T T"]:
        p = sigmoid(self._odds)
        most: np.ndarray = np.maximum(p, p.T)
        return most

    def _open(self) -> Bool[np.ndarray, "T T"]:
        """Say which pairs of different datasets nothing was said about."""
        classes = self.problem.classes
        out: np.ndarray = classes.differ & (np.maximum(abs(self._odds), abs(self._odds).T) < DECIDED)
        for a, b in self.constraints.unsure:
            x, y = classes.positions[a], classes.positions[b]
            out[x, y] = out[y, x] = False
        return out
