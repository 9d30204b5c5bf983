"""Names of classes and nodes: how they are compared, and how nodes are named after their classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manyseg.labels.spaces import ClassKey

__all__ = ["UniqueNames", "node_names", "normalise"]


def normalise(name: str) -> str:
    """Fold a class name for comparison: case, separators, words in brackets, and plural of the last word.

    The rule is meant to be seen and edited, not to be clever: "Traffic-Signs (front)" becomes "traffic sign".
    """
    text = name.casefold().split("(")[0]
    words = "".join(c if c.isalnum() else " " for c in text).split()
    if words:
        words[-1] = _singular(words[-1])
    return " ".join(words) or name.casefold().strip()


def _singular(word: str) -> str:
    if len(word) <= 3 or not word.isascii() or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("shes", "ches", "xes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word


class UniqueNames:
    """Hands out names that differ from each other and from those `taken` before."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def choose(self, options: Sequence[str]) -> str:
        """Return the first of the options that is free; if none is, the first option with a number: "road #2"."""
        name = next((n for n in options if n not in self._taken), "")
        if not name:
            for number in count(self._next.get(options[0], 2)):
                name = f"{options[0]} #{number}"
                if name not in self._taken:
                    break
            self._next[options[0]] = number + 1
        self._taken.add(name)
        return name


def node_names(
    groups: Sequence[Sequence[ClassKey]], weights: Sequence[Sequence[float]] | None = None
) -> tuple[str, ...]:
    """Name every unified node after its classes, given as (dataset, class); no two names are equal.

    Classes vote for their names; names that `normalise` makes equal count together, and their shortest spelling stands
    for them. The name with most votes is taken, of equal ones the shortest, then the first. Where another node has that
    name, the next best name is put behind it in brackets, then a dataset, then a number: "road (lane marking)",
    "road (street)", "road #2". `weights` are the votes, 1 each by default: a class of several nodes says little about
    each of them, so its vote can be divided among them.
    """
    unique = UniqueNames()
    out = []
    for u, group in enumerate(groups):
        votes: dict[str, float] = {}
        spelling: dict[str, str] = {}
        for (_, name), vote in zip(group, weights[u] if weights else [1.0] * len(group), strict=True):
            folded = normalise(name)
            votes[folded] = votes.get(folded, 0.0) + vote
            spelling[folded] = min(spelling.get(folded, name), name, key=len)
        ranked = sorted(votes, key=lambda n: (-votes[n], len(spelling[n])))
        best, *others = [spelling[n] for n in ranked] or [f"node {u}"]
        datasets = dict.fromkeys(dataset for dataset, name in group if name == best)
        out.append(unique.choose([best, *(f"{best} ({other})" for other in (*others, *datasets))]))
    return tuple(out)
