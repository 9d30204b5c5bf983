"""What the lexicon says of every two classes: one holds the other, they are the same, or they differ.

Axes: T classes of all datasets together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from manyseg.labels import JointClasses
from manyseg.relate.lexicon import Lexicon, lexicon
from manyseg.relate.reading import Reading, Unit, read_classes

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

__all__ = ["LexiconEvidence", "lexicon_evidence"]

NARROWER = 0.5
"""How far a concept with qualifiers is from the concept without."""

LISTED = 1.0
"""How much farther what a description lists is than what the name says."""


@dataclass(frozen=True)
class LexiconEvidence:
    """Relations of the classes of different datasets, as far as the lexicon knows both."""

    equal: Bool[np.ndarray, "T T"]
    within: Bool[np.ndarray, "T T"]
    """[x, y]: y holds x and more, and is the nearest class of its dataset that does."""
    partly: Bool[np.ndarray, "T T"]
    """[x, y]: x lists several things, and y holds some of them."""
    different: Bool[np.ndarray, "T T"]
    """Both are known, and nothing relates them."""
    elsewhere: Bool[np.ndarray, "T T"]
    """One holds the other, but a narrower class of its dataset does too, or one that is equal."""
    readings: tuple[Reading, ...]

    def reason(self, x: int, y: int) -> str:
        """Say why x is y, within it or apart from it, in the lexicon's words; "" where it knows too little."""
        if not self.readings[x].units or not (self.readings[y].units or self.readings[y].listed):
            return ""
        a, b = (_spelled(self.readings[i]) for i in (x, y))
        if self.equal[x, y]:
            return f"both are {a}" if a == b else f"{a} is {b}"
        if self.within[x, y]:
            return f"{b} holds {a}"
        if self.within[y, x]:
            return f"{a} holds {b}"
        if self.partly[x, y] or self.partly[y, x]:
            return f"{a} and {b} have a part in common"
        return f"{a} is not {b}" if self.different[x, y] else ""


def _spelled(reading: Reading) -> str:
    names = lexicon().concepts
    units = sorted(" ".join([*sorted(u.qualifiers), names[u.concept].name]) for u in reading.units or reading.listed)
    return " or ".join(units)


def lexicon_evidence(classes: JointClasses) -> LexiconEvidence:
    """Relate all classes by what the lexicon of the package says of their names and descriptions."""
    lex = lexicon()
    readings = read_classes(classes, lex)
    # First of every two readings: many classes have the same.
    place: dict[Reading, int] = {}
    number = np.array([place.setdefault(r, len(place)) for r in readings])
    distance = np.full((len(place), len(place)), np.inf, np.float32)
    some = np.zeros(distance.shape, bool)
    for x, y, far, all_of_it in _held([*place], lex):
        if all_of_it:
            distance[x, y] = far
        else:
            some[x, y] = True
    held = np.isfinite(distance)
    known = np.array([bool(r.units) and r.whole for r in place])
    related = held | held.T | some | some.T

    def of_classes(pairs: np.ndarray) -> Bool[np.ndarray, "T T"]:
        found = np.take(pairs[number], number, axis=1)
        found &= classes.differ
        return found

    equal = of_classes(held & held.T)
    partly = of_classes(some & ~held & ~held.T)
    different = of_classes(known[:, None] & known & ~related)
    within = _nearest(classes, distance, number, equal)
    elsewhere = of_classes((held | held.T) & ~(held & held.T))
    elsewhere &= ~(within | within.T)
    return LexiconEvidence(equal, within, partly, different, elsewhere, readings)


def _nearest(
    classes: JointClasses, distance: np.ndarray, number: Int[np.ndarray, " T"], equal: Bool[np.ndarray, "T T"]
) -> Bool[np.ndarray, "T T"]:
    """Keep, of the classes of each dataset that hold x, the narrowest and nearest; none where one is equal to x.

    `distance` is of every two readings, and `number` the reading of each class.
    """
    out = np.zeros(equal.shape, bool)
    held = np.isfinite(distance)
    for x, far in enumerate(distance[number]):
        by_dataset: dict[int, list[int]] = {}
        for y in np.flatnonzero(held[number[x]][number] & classes.differ[x]).tolist():
            by_dataset.setdefault(int(classes.dataset[y]), []).append(y)
        for options in by_dataset.values():
            if equal[x, options].any():
                continue
            by_reading = {y: number[y] for y in options}
            narrow = [
                y for y, r in by_reading.items() if not any(held[s, r] and not held[r, s] for s in by_reading.values())
            ]
            least = min(far[number[narrow]])
            out[x, [y for y in narrow if far[number[y]] == least]] = True
    return out


def _lies_in(unit: Unit, other: Unit, lex: Lexicon) -> bool:
    """Say whether one unit is the other or one of its kinds; with qualifiers the other has no kinds that are known."""
    if other.qualifiers:
        return other.concept == unit.concept and other.qualifiers <= unit.qualifiers
    return other.concept in lex.holders[unit.concept]


def _held(readings: Sequence[Reading], lex: Lexicon) -> list[tuple[int, int, float, bool]]:
    """List (x, y, distance, whole): reading y holds all (or, if not whole, some) of what x stands for."""
    index: dict[int, list[tuple[int, Unit, float]]] = {}
    for y, r in enumerate(readings):
        for unit in r.units:
            index.setdefault(unit.concept, []).append((y, unit, 0.0))
        for unit in r.listed - r.units:
            index.setdefault(unit.concept, []).append((y, unit, LISTED))
    out = []
    for x, r in enumerate(readings):
        nearest: list[dict[int, float]] = []
        for unit in r.units:
            found: dict[int, float] = {}
            for concept, far in lex.holders[unit.concept].items():
                for y, other, more in index.get(concept, ()):
                    if not _lies_in(unit, other, lex) or any(_lies_in(unit, u, lex) for u in readings[y].excluded):
                        continue
                    total = far + more + NARROWER * (len(unit.qualifiers) > len(other.qualifiers))
                    found[y] = min(total, found.get(y, np.inf))
            nearest.append(found)
        for y in sorted(set().union(*nearest)):
            parts = [found[y] for found in nearest if y in found]
            out.append((x, y, max(parts), len(parts) == len(nearest) and r.whole))
    return out
