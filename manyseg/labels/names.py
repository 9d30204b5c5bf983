"""Names of classes and nodes: how they are compared, and how nodes are named after their classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from manyseg.labels.spaces import ClassKey, LabelClass, LabelSpace

__all__ = ["UniqueNames", "name_groups", "node_names", "normalise"]

NameRule: TypeAlias = "Callable[[LabelClass], list[str]]"
"""Gives the names of a class, as they are compared."""


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


def name_groups(spaces: Sequence[LabelSpace], *, exact: bool) -> list[list[ClassKey]]:
    """List the unified nodes, as (dataset, class), that unite classes of equal name.

    With `exact` names are equal to the letter. Without, a class is called by its name and its synonyms; names that are
    equal but for their case go first, then those that `normalise` makes equal. So "Traffic Sign (Front)" with the
    synonym "traffic sign" is united with `traffic sign`, and "Traffic Sign (Back)" is not. Two classes of one dataset
    are never united: the later of two equal names keeps its own node.
    """
    rules: list[NameRule] = [_exact_names] if exact else [_stated_names, _folded_names]
    indices: list[dict[str, list[int]]] = [{} for _ in rules]
    groups: list[list[ClassKey]] = []
    known: set[tuple[int, str, int]] = set()
    for space in spaces:
        found: dict[str, int] = {}
        for rule, index in zip(rules, indices, strict=True):
            rest = [c for c in space.classes if c.name not in found]
            found |= _equal(rest, rule, index, set(found.values()))
        for c in space.classes:
            group = found.get(c.name, len(groups))
            if group == len(groups):
                groups.append([])
            groups[group].append((space.name, c.name))
            for number, (rule, index) in enumerate(zip(rules, indices, strict=True)):
                for key in rule(c):
                    if (number, key, group) not in known:
                        known.add((number, key, group))
                        index.setdefault(key, []).append(group)
    return groups


def _equal(
    classes: Sequence[LabelClass], rule: NameRule, index: dict[str, list[int]], used: set[int]
) -> dict[str, int]:
    """Return the group of every class that has an equal name in one that is not used yet; `used` grows."""
    found: dict[str, int] = {}
    # An iterator for each name, as a group that has a class of this dataset need not be looked at again.
    candidates: dict[str, Iterator[int]] = {}
    for c in classes:
        waiting = (candidates.setdefault(key, iter(index.get(key, ()))) for key in rule(c))
        group = next((g for groups_of_key in waiting for g in groups_of_key if g not in used), None)
        if group is not None:
            found[c.name] = group
            used.add(group)
    return found


def _exact_names(c: LabelClass) -> list[str]:
    return [c.name]


def _stated_names(c: LabelClass) -> list[str]:
    return [n.casefold() for n in (c.name, *c.synonyms)]


def _folded_names(c: LabelClass) -> list[str]:
    return [normalise(n) for n in (c.name, *c.synonyms)]
