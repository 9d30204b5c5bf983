"""What follows from a person's decisions about pairs of classes: by equality, by parts of parts, and within datasets.

Axes: T classes of all datasets together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from manyseg.errors import UserError
from manyseg.labels import JointClasses
from manyseg.relate.calibrate import logit, sigmoid
from manyseg.relate.constraints import Constraints

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["DECIDED", "Decisions"]

DECIDED = 60.0
"""Log-odds of what a person said, or what follows from it; no evidence reaches them."""

Links = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Decisions:
    """Pairs of positions of classes: those that are one, those that share nothing, and those (x, y) with x within y.

    `must_link` are as given; `apart` and `within` hold everything that follows too. Classes of one dataset differ by
    definition, so they are not listed. Of a class that lies within another one, the other classes of that dataset are
    apart.
    """

    must_link: Links
    apart: Links
    within: Links

    @classmethod
    def of(cls, constraints: Constraints, classes: JointClasses) -> Decisions:
        """Draw the conclusions from what was decided about `classes`; raises UserError for a contradiction."""
        must, cannot, part = (
            tuple((classes.positions[a], classes.positions[b]) for a, b in pairs)
            for pairs in (constraints.must_link, constraints.cannot_link, constraints.part_of)
        )
        above = _closure([*must, *((y, x) for x, y in must), *part])
        dataset, rows = classes.dataset, [*classes.rows.values()]
        for x, wholes in above.items():
            equal = sorted({x, *(y for y in wholes if x in above.get(y, ()))})
            if len({dataset[i] for i in equal}) < len(equal):
                linked = ", ".join(":".join(classes.keys[i]) for i in equal)
                raise UserError(f"must_link joins two classes of one dataset ({linked}); remove one of its pairs")
        below: dict[int, set[int]] = {}
        for x, wholes in above.items():
            for y in wholes:
                below.setdefault(y, set()).add(x)
        for x, y in (*cannot, *(p[::-1] for p in (*cannot, *part))):
            if y in above.get(x, ()):
                a, b = (":".join(classes.keys[i]) for i in (x, y))
                raise UserError(f"{a} and {b} are linked and parted by what was decided; remove one of the entries")
        apart = set()
        for x, y in cannot:
            apart |= {(i, j) for i in below.get(x, set()) | {x} for j in below.get(y, set()) | {y}}
        for x, wholes in above.items():
            for y in wholes:
                others = set(range(rows[dataset[y]].start, rows[dataset[y]].stop)) - wholes
                # What contains x is no part of it; what is below another class of y's dataset is apart from x, too.
                apart |= {(x, j) for other in others for j in below.get(other, set()) | {other}}
        apart |= {(y, x) for x, y in apart}
        said = {(x, y) for x, wholes in above.items() for y in wholes}
        return cls(
            must,
            tuple(sorted(p for p in apart if dataset[p[0]] != dataset[p[1]] and p not in said and p[::-1] not in said)),
            tuple(sorted(p for p in said if dataset[p[0]] != dataset[p[1]])),
        )

    @property
    def unequal(self) -> Links:
        """The pairs that are not one class: apart, or one within the other and not the other way round."""
        said = set(self.within)
        return self.apart + tuple(p for p in self.within if p[::-1] not in said)

    def pin(self, odds: Float[np.ndarray, "T T"], clusters: Sequence[tuple[int, ...]] = ()) -> Float[np.ndarray, "T T"]:
        """Return the directed log-odds with what was decided in place of what the evidence says.

        What was said of one class of `clusters` says as much of the others, as they are probably one with it.
        """
        apart, within = (_matrix(pairs, len(odds)) for pairs in (self.apart, self.within))
        out = _spread(odds, clusters, apart, within)
        out[apart] = -DECIDED
        out[within.T] = -DECIDED
        out[within] = DECIDED
        return out


def _matrix(pairs: Links, T: int) -> Bool[np.ndarray, "T T"]:
    out = np.zeros((T, T), bool)
    if pairs:
        out[tuple(np.array(pairs).T)] = True
    return out


def _spread(
    odds: Float[np.ndarray, "T T"],
    clusters: Sequence[tuple[int, ...]],
    apart: Bool[np.ndarray, "T T"],
    within: Bool[np.ndarray, "T T"],
) -> Float[np.ndarray, "T T"]:
    """Let what was said of a class count for those that are equal to it with a probability q.

    What is apart from it is related to them with at most 1 - q of the probability before; what it lies within, or what
    lies within it, with at least q.
    """
    p = sigmoid(odds)
    for members in clusters:
        rows = list(members)
        if len(rows) < 2 or not (apart[rows].any() or within[rows].any() or within[:, rows].any()):
            continue
        equal = np.maximum(np.minimum(p[np.ix_(rows, rows)], p[np.ix_(rows, rows)].T), 0.5)
        np.fill_diagonal(equal, 0)
        no = (equal[:, :, None] * apart[rows][None]).max(1)
        up = (equal[:, :, None] * within[rows][None]).max(1)
        down = (equal[:, :, None] * within[:, rows].T[None]).max(1)
        p[rows] = np.maximum(p[rows] * (1 - no), up)
        p[:, rows] = np.maximum(p[:, rows] * (1 - no).T, down.T)
    return logit(p)


def _closure(edges: Sequence[tuple[int, int]]) -> Mapping[int, set[int]]:
    """Return what can be reached from each class along the edges, without itself."""
    following: dict[int, set[int]] = {}
    for x, y in edges:
        following.setdefault(x, set()).add(y)
    out = {}
    for start in following:
        seen, waiting = {start}, [start]
        while waiting:
            for y in following.get(waiting.pop(), set()) - seen:
                seen.add(y)
                waiting.append(y)
        out[start] = seen - {start}
    return out
