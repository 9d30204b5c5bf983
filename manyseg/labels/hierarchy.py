"""The universal hierarchy of a taxonomy: which classes are kinds of which (HTSS: Meletis and Dubbelman).

A class is a concept: the set of unified nodes that it may be. A is a child of B where its nodes are a strict subset of
B's. The leaves are the unified nodes, the root is everything. Concepts of a tree never overlap in part, and every
branching must be taught by a dataset; classes that break this are split: they are no concept, but a choice of several.

Axes: D classes of one dataset, U unified nodes, N concepts, K children of one concept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from manyseg.labels import ClassKey, LabelClass, LabelSpace, Relation, Taxonomy
from manyseg.labels.names import UniqueNames

__all__ = ["Choice", "Hierarchy"]

Nodes = tuple[bool, ...]
"""A set of unified nodes, by membership."""


class Choice(NamedTuple):
    """What the classes of a dataset say about the choice between the children of a concept."""

    allowed: Bool[np.ndarray, "D K"]
    """The children that class d may be."""
    sure: Bool[np.ndarray, " D"]
    """True where class d lies within the concept and says something about its children."""
    maybe: Bool[np.ndarray, " D"]
    """True where it says something, if its pixel is of the concept at all: it has nodes elsewhere too."""

    @property
    def teaches(self) -> bool:
        """Whether the dataset tells children apart: a single choice is nothing that a classifier could learn."""
        return len(np.unique(self.allowed[self.sure | self.maybe], axis=0)) > 1


@dataclass(frozen=True)
class Hierarchy:
    """A tree of concepts: first the unified nodes in their order, then inner concepts, smaller before larger."""

    taxonomy: Taxonomy
    space: LabelSpace
    """All concepts but the root, as a label space called "hierarchy"."""
    leaves: Bool[np.ndarray, "N U"] = field(repr=False)
    """The unified nodes that each concept consists of."""
    split: tuple[tuple[ClassKey, str], ...]
    """The classes of several nodes that are no concept, and why."""

    @classmethod
    def of(cls, taxonomy: Taxonomy) -> Hierarchy:
        """Derive the hierarchy: one concept for every set of nodes that classes mean, unless it has to be split.

        Of concepts that overlap in part, the one with the most such conflicts is split first (of equal ones the
        smaller, then the later), until none is left. Then concepts are split whose children no dataset tells apart.
        """
        members = _members(taxonomy)
        sets = {key: np.array(key) for key in members if 1 < sum(key) < len(key)}
        split: list[tuple[ClassKey, str]] = []
        for key, other in _crossing(list(sets)):
            dataset, name = members[other][0]
            split += [(m, f"overlaps {dataset}:{name} in part") for m in members[key]]
            del sets[key]
        while True:
            rows = [*np.eye(len(taxonomy.unified), dtype=bool), *sorted(sets.values(), key=lambda s: int(s.sum()))]
            tree = cls(taxonomy, _space(taxonomy, rows, members), np.array(rows), tuple(split))
            untaught = [v for v in tree.inner[1:] if not any(tree.choice(s, v).teaches for s in taxonomy.spaces)]
            if not untaught:
                return tree
            key = tuple(tree.leaves[untaught[-1]].tolist())
            split += [(m, "no dataset tells its parts apart") for m in members[key]]
            del sets[key]

    @property
    def root(self) -> int:
        """The number that stands for the root: one past the last concept."""
        return len(self.space)

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """The smallest concept that each concept lies within, or the root."""
        sizes = self.leaves.sum(1)
        out = []
        for n, row in enumerate(self.leaves):
            above = np.flatnonzero((self.leaves[:, row].all(1)) & (sizes > sizes[n]))
            out.append(int(above[sizes[above].argmin()]) if len(above) else self.root)
        return tuple(out)

    @cached_property
    def inner(self) -> tuple[int, ...]:
        """The root and the inner concepts, parents before their children."""
        return (self.root, *range(self.root - 1, len(self.taxonomy.unified) - 1, -1))

    def children(self, concept: int) -> tuple[int, ...]:
        """List the concepts directly under one; none under a leaf."""
        return tuple(n for n, p in enumerate(self.parents) if p == concept)

    def path(self, concept: int) -> tuple[int, ...]:
        """List a concept and those that it lies within, without the root, the largest first."""
        out = []
        while concept != self.root:
            out.append(concept)
            concept = self.parents[concept]
        return tuple(reversed(out))

    def choice(self, space: LabelSpace, concept: int) -> Choice:
        """Say what the classes of a training dataset say about the children of an inner concept."""
        relation: Relation = self.taxonomy.relations[space.name]
        children = self.leaves[list(self.children(concept))]
        outside = ~children.any(0)
        touched = (relation[:, None] & children).any(-1)
        # All children of a concept are no choice between them: such a label stops above, or at, the concept.
        tells = touched.any(1) & ~touched.all(1)
        within = ~relation[:, outside].any(1)
        return Choice(touched, tells & within, tells & ~within)

    def to_text(self) -> str:
        """Draw the tree, a line for each concept and the classes that mean it; list other nodes, and split classes."""
        members = _members(self.taxonomy)
        lines: list[str] = []

        def draw(concept: int, depth: int) -> None:
            means = members.get(tuple(self.leaves[concept].tolist()), [])
            known = f" ({', '.join(f'{d}:{n}' for d, n in means)})" if means else ""
            lines.append("  " * depth + self.space.names[concept] + known)
            for child in self.children(concept):
                draw(child, depth + 1)

        tops = self.children(self.root)
        for top in tops:
            if self.children(top):
                draw(top, 0)
        if alone := [self.space.names[n] for n in tops if not self.children(n)]:
            lines.append(f"within no other: {', '.join(alone)}")
        for (dataset, name), why in self.split:
            row = self.taxonomy.relations[dataset][self.taxonomy.space(dataset).positions[name]]
            nodes = ", ".join(self.taxonomy.unified.names[u] for u in np.flatnonzero(row))
            lines.append(f"split: {dataset}:{name} is any of {nodes} ({why})")
        return "\n".join(lines)


def _members(taxonomy: Taxonomy) -> dict[Nodes, list[ClassKey]]:
    """List the classes that mean each set of nodes, in order of datasets."""
    out: dict[Nodes, list[ClassKey]] = {}
    for space in taxonomy.spaces:
        for name, row in zip(space.names, taxonomy.relations[space.name].tolist(), strict=True):
            out.setdefault(tuple(row), []).append((space.name, name))
    return out


def _crossing(keys: Sequence[Nodes]) -> list[tuple[Nodes, Nodes]]:
    """List the sets to be split, each with one that it overlaps in part."""
    if not keys:
        return []
    sets = np.array(keys, np.int64)
    sizes = np.diag(sets @ sets.T)
    shared = sets @ sets.T
    crosses = (shared > 0) & (shared < sizes) & (shared < sizes[:, None])
    out = []
    while crosses.any():
        counts = crosses.sum(1)
        worst = max(range(len(keys)), key=lambda i: (counts[i], -sizes[i], i))
        out.append((keys[worst], keys[int(crosses[worst].argmax())]))
        crosses[worst] = crosses[:, worst] = False
    return out


def _space(
    taxonomy: Taxonomy, rows: Sequence[Bool[np.ndarray, " U"]], members: dict[Nodes, list[ClassKey]]
) -> LabelSpace:
    """Name the inner concepts by the class that means them, with its dataset where that name is taken."""
    classes = list(taxonomy.unified.classes)
    unique = UniqueNames(taxonomy.unified.names)
    for row in rows[len(classes) :]:
        dataset, name = members[tuple(row.tolist())][0]
        known = taxonomy.space(dataset)
        original = known.classes[known.positions[name]]
        name = unique.choose([name, f"{name} ({dataset})"])
        classes.append(LabelClass(name, original.color, original.thing, original.description))
    return LabelSpace("hierarchy", tuple(classes))
