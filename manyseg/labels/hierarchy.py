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
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from manyseg.labels import ClassKey, LabelClass, LabelSpace, Taxonomy
from manyseg.labels.names import UniqueNames

if TYPE_CHECKING:
    from jaxtyping import Bool

__all__ = ["ChildTargets", "Hierarchy"]

Nodes = bytes
"""A set of unified nodes: their membership, a byte a node."""


class ChildTargets(NamedTuple):
    """What the classes of a dataset say about the children of a concept, as targets of the classifier between them."""

    allowed: Bool[np.ndarray, "D K"]
    """The children that class d may be."""
    sure: Bool[np.ndarray, " D"]
    """True where class d lies within the concept and says something about its children."""
    maybe: Bool[np.ndarray, " D"]
    """True where it says something, if its pixel is of the concept at all: it has nodes elsewhere too."""

    @property
    def teaches(self) -> bool:
        """Whether the dataset tells children apart: a single choice is nothing that a classifier could learn."""
        rows = self.allowed[self.sure | self.maybe]
        return bool((rows != rows[:1]).any())


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
        sets = {key: np.frombuffer(key, bool) for key in members if 1 < key.count(1) < len(key)}
        split: list[tuple[ClassKey, str]] = []
        for key, other in _crossing(list(sets)):
            dataset, name = members[other][0]
            split += [(m, f"overlaps {dataset}:{name} in part") for m in members[key]]
            del sets[key]
        single = np.eye(len(taxonomy.unified), dtype=bool)
        while True:
            inner = sorted(sets.values(), key=lambda s: int(s.sum()))
            leaves = np.concatenate([single, *(row[None] for row in inner)])
            tree = cls(taxonomy, _space(taxonomy, inner, members), leaves, tuple(split))
            untaught = [v for v in tree.inner[1:] if not any(tree.teaches(s, v) for s in taxonomy.spaces)]
            if not untaught:
                return tree
            key = tree.leaves[untaught[-1]].tobytes()
            split += [(m, "no dataset tells its parts apart") for m in members[key]]
            del sets[key]

    @property
    def root(self) -> int:
        """The number that stands for the root: one past the last concept."""
        return len(self.space)

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """The smallest concept that each concept lies within, or the root."""
        nodes = len(self.taxonomy.unified)
        smallest = np.full(nodes, self.root)  # The smallest concept around each node, of those seen so far.
        out = np.full(len(self.leaves), self.root)
        for n in range(len(self.leaves) - 1, nodes - 1, -1):  # The largest first.
            out[n] = smallest[self.leaves[n].argmax()]
            smallest[self.leaves[n]] = n
        out[:nodes] = smallest
        return tuple(out.tolist())

    @cached_property
    def inner(self) -> tuple[int, ...]:
        """The root and the inner concepts, parents before their children."""
        return (self.root, *range(self.root - 1, len(self.taxonomy.unified) - 1, -1))

    def children(self, concept: int) -> tuple[int, ...]:
        """List the concepts directly under one; none under a leaf."""
        return self._children.get(concept, ())

    @cached_property
    def _children(self) -> dict[int, tuple[int, ...]]:
        found: dict[int, list[int]] = {}
        for n, parent in enumerate(self.parents):
            found.setdefault(parent, []).append(n)
        return {parent: tuple(children) for parent, children in found.items()}

    @cached_property
    def _leaves_of_children(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """The nodes within every inner concept, ascending, and the number of the child that each lies in."""
        found: dict[int, tuple[list[int], list[int]]] = {concept: ([], []) for concept in self.inner}
        number = {n: k for children in self._children.values() for k, n in enumerate(children)}
        for u in range(len(self.taxonomy.unified)):
            path = self.path(u)
            for concept, child in zip((self.root, *path), path, strict=False):
                found[concept][0].append(u)
                found[concept][1].append(number[child])
        return {concept: (np.array(a, np.int64), np.array(b, np.int64)) for concept, (a, b) in found.items()}

    @cached_property
    def _pairs(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The pairs of class and node of every dataset, in which its relation is true."""
        # In one dimension NumPy finds them several times as fast.
        return {n: np.divmod(np.flatnonzero(r), r.shape[1]) for n, r in self.taxonomy.relations.items()}

    def path(self, concept: int) -> tuple[int, ...]:
        """List a concept and those that it lies within, without the root, the largest first."""
        out = []
        while concept != self.root:
            out.append(concept)
            concept = self.parents[concept]
        return tuple(reversed(out))

    @cached_property
    def _entered(self) -> dict[str, frozenset[int]]:
        """The inner concepts within which each dataset has a node: of many datasets most have none in most concepts."""
        above = {u: (self.root, *self.path(u)[:-1]) for u in range(len(self.taxonomy.unified))}
        found = {name: (above[u] for u in set(nodes.tolist())) for name, (_, nodes) in self._pairs.items()}
        return {name: frozenset(chain.from_iterable(paths)) for name, paths in found.items()}

    def teaches(self, space: LabelSpace, concept: int) -> bool:
        """Say whether a training dataset tells children of an inner concept apart."""
        return concept in self._entered[space.name] and self.child_targets(space, concept).teaches

    def child_targets(self, space: LabelSpace, concept: int) -> ChildTargets:
        """Say what the classes of a training dataset say about the children of an inner concept."""
        children, (leaves, of_child) = self.children(concept), self._leaves_of_children[concept]
        classes, nodes = self._pairs[space.name]
        place = np.searchsorted(leaves, nodes).clip(max=len(leaves) - 1)
        inside, found = leaves[place] == nodes, of_child[place]
        touched = np.zeros((len(space), len(children)), bool)
        touched[classes[inside], found[inside]] = True
        # All children of a concept are no choice between them: such a label stops above, or at, the concept.
        tells = np.zeros(len(space), bool)
        tells[classes[inside]] = ~touched[classes[inside]].all(1)
        within = np.ones(len(space), bool)
        within[classes[~inside]] = False
        return ChildTargets(touched, tells & within, tells & ~within)

    def to_text(self) -> str:
        """Draw the tree, a line for each concept and the classes that mean it; list other nodes, and split classes."""
        members = _members(self.taxonomy)
        lines: list[str] = []

        def draw(concept: int, depth: int) -> None:
            means = members.get(self.leaves[concept].tobytes(), [])
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
        for name, row in zip(space.names, taxonomy.relations[space.name], strict=True):
            out.setdefault(row.tobytes(), []).append((space.name, name))
    return out


def _crossing(keys: Sequence[Nodes]) -> list[tuple[Nodes, Nodes]]:
    """List the sets to be split, each with one that it overlaps in part."""
    if not keys:
        return []
    # Exact up to 2^24 nodes, and by far faster than whole numbers.
    sets = np.array([np.frombuffer(key, bool) for key in keys], np.float32)
    shared = (sets @ sets.T).astype(np.int64)
    sizes = np.diag(shared)
    crosses = (shared > 0) & (shared < sizes) & (shared < sizes[:, None])
    out = []
    while crosses.any():
        counts = crosses.sum(1)
        worst = max(range(len(keys)), key=lambda i: (counts[i], -sizes[i], i))
        out.append((keys[worst], keys[int(crosses[worst].argmax())]))
        crosses[worst] = crosses[:, worst] = False
    return out


def _space(
    taxonomy: Taxonomy, inner: Sequence[Bool[np.ndarray, " U"]], members: dict[Nodes, list[ClassKey]]
) -> LabelSpace:
    """Name the `inner` concepts by the class that means them, with its dataset where that name is taken."""
    classes = list(taxonomy.unified.classes)
    unique = UniqueNames(taxonomy.unified.names)
    for row in inner:
        dataset, name = members[row.tobytes()][0]
        known = taxonomy.space(dataset)
        original = known.classes[known.positions[name]]
        name = unique.choose([name, f"{name} ({dataset})"])
        classes.append(LabelClass(name, original.color, original.thing, original.description))
    return LabelSpace("hierarchy", tuple(classes))
