"""Relating an unseen dataset's classes to unified nodes: by names, by text, or by a map fitted on labelled images.

A relation is Bool[D, U]. Names and text read no label of the target; rows may then be empty, and such classes score
IoU 0. A fitted map (AutoUniSeg's protocol) reads labels, of images that are not scored, and gives every node a class.
The three are never mixed in one mean.

Axes: D classes of the target, U unified nodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manyseg.labels import LabelClass, LabelSpace, Relation, Taxonomy, normalise
from manyseg.labels.names import UniqueNames
from manyseg.relate.proposal import propose
from manyseg.relate.text_evidence import Encode, best_cosines

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["relate_by_names", "relate_by_table", "relate_by_text", "unmapped"]


def unmapped(space: LabelSpace, relation: Relation) -> tuple[str, ...]:
    """Return the names of the classes that no node is related to: they cannot be predicted."""
    return tuple(n for n, row in zip(space.names, relation, strict=True) if not row.any())


def relate_by_names(space: LabelSpace, taxonomy: Taxonomy) -> Relation:
    """Relate classes to the nodes that bear their name: normalised names and synonyms, of nodes and their members.

    A node whose own name is a class of the target belongs to that class alone, whatever its members are called;
    otherwise it belongs to every class that a member is called by.
    """
    targets = [_names(c) for c in space.classes]
    relation = np.zeros((len(space), len(taxonomy.unified)), bool)
    for u, node in enumerate(taxonomy.unified.classes):
        named = _names(node)
        own = [not names.isdisjoint(named) for names in targets]
        members = set().union(*(_names(c) for c in _members(taxonomy, u)))
        relation[:, u] = own if any(own) else [not names.isdisjoint(members) for names in targets]
    return relation


def relate_by_text(space: LabelSpace, taxonomy: Taxonomy, encode: Encode) -> Relation:
    """Relate classes to nodes by the label space that `propose` finds by text for the training datasets and this one.

    It is read as a table is by `relate_by_table`, but that a node of which no class holds more than half belongs to the
    one that is nearest to it in text, of those that hold some of it. No label is read.
    """
    # A card may have the name of a training dataset that has other classes.
    target = LabelSpace(UniqueNames(s.name for s in taxonomy.spaces).choose([space.name]), space.classes)
    wide = propose([*taxonomy.spaces, target], by="text", encode=encode).taxonomy
    shares = _shares(wide.relations[target.name], taxonomy, wide)
    relation: Relation = shares > 0.5
    wider = (shares > 0) & ~relation.any(0)
    if wider.any():
        similarity = np.where(wider, _similarity(space, taxonomy, encode), -np.inf)
        relation |= wider & (similarity == similarity.max(0))
    return relation


def relate_by_table(space: LabelSpace, taxonomy: Taxonomy, table: Path) -> Relation:
    """Relate classes to nodes by a table of a taxonomy that has the training datasets and `space`.

    A class means a set of the table's rows, and a node those rows that all its members have in common, or any of them
    if there are none. A node belongs to the classes that hold more than half of its rows; where none does, to those of
    its name that hold some.
    """
    wide = Taxonomy.read(table, (*taxonomy.spaces, space))
    shares = _shares(wide.relations[space.name], taxonomy, wide)
    relation: Relation = shares > 0.5
    relation |= ~relation.any(0) & (shares > 0) & relate_by_names(space, taxonomy)
    return relation


def _shares(relation: Relation, taxonomy: Taxonomy, wide: Taxonomy) -> Float[np.ndarray, "D U"]:
    """Return what share of each node's rows of a wider taxonomy each class holds."""
    rows = [
        np.array([wide.relations[d][wide.space(d).positions[n]] for d, n in taxonomy.members(u)])
        for u in range(len(taxonomy.unified))
    ]
    common = [every.all(0) for every in rows]
    nodes = np.array([own if own.any() else every.any(0) for own, every in zip(common, rows, strict=True)], float)
    shares: np.ndarray = relation.astype(float) @ nodes.T / np.maximum(nodes.sum(1), 1)
    return shares


def _similarity(space: LabelSpace, taxonomy: Taxonomy, encode: Encode) -> Float[np.ndarray, "D U"]:
    """Return the best cosine of the names of a class and those of a node and its members."""
    texts = [sorted({c.name, *c.synonyms}) for c in space.classes]
    for u, node in enumerate(taxonomy.unified.classes):
        texts.append(sorted({n for c in (node, *_members(taxonomy, u)) for n in (c.name, *c.synonyms)}))
    vectors = encode([normalise(text) for names in texts for text in names])
    parts = np.split(vectors, np.cumsum([len(names) for names in texts])[:-1])
    return best_cosines(parts[: len(space)], parts[len(space) :])


def _names(c: LabelClass) -> set[str]:
    return {normalise(n) for n in (c.name, *c.synonyms)}


def _members(taxonomy: Taxonomy, node: int) -> list[LabelClass]:
    spaces = {s.name: s for s in taxonomy.spaces}
    return [spaces[d].classes[spaces[d].positions[n]] for d, n in taxonomy.members(node)]
