"""Relating an unseen dataset's classes to unified nodes: by names, by text, or by a map fitted on labelled images.

A relation is Bool[D, U]. Names and text read no label of the target; rows may then be empty, and such classes score
IoU 0. A fitted map (AutoUniSeg's protocol) reads labels, of images that are not scored, and gives every node a class.
The three are never mixed in one mean.

Axes: D classes of the target, U unified nodes, F features of a text.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyseg.labels import LabelClass, LabelSpace, Relation, Taxonomy, normalise
from manyseg.relate.text_evidence import Encode, best_cosines

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
    """Relate every node to the class that is nearest in meaning, where it is near enough.

    The similarity of a class and a node is the best cosine between the class's name and synonyms and the names of the
    node and its members. Near enough is calibrated within the training datasets, without any label: classes of one
    dataset differ by definition, so a match must be nearer than half of all classes are to their nearest false one.
    """
    targets = [_texts(c) for c in space.classes]
    nodes = [
        sorted({n for c in (node, *_members(taxonomy, u)) for n in (c.name, *c.synonyms)})
        for u, node in enumerate(taxonomy.unified.classes)
    ]
    vectors = encode([normalise(text) for texts in targets + nodes for text in texts])
    parts = np.split(vectors, np.cumsum([len(texts) for texts in targets + nodes])[:-1])
    classes, unified = parts[: len(targets)], parts[len(targets) :]
    similarity = best_cosines(classes, unified)
    near = np.array(similarity > _threshold(taxonomy, encode), bool)
    relation: Relation = np.array(near & (similarity == similarity.max(0, keepdims=True)), bool)
    return relation


def relate_by_table(space: LabelSpace, taxonomy: Taxonomy, table: Path) -> Relation:
    """Relate classes to nodes by a table of a taxonomy that has the training datasets and `space`.

    A class means a set of the table's rows, and a node those rows that all its members have in common. A node belongs
    to the classes that hold more than half of its rows.
    """
    wide = Taxonomy.read(table, (*taxonomy.spaces, space))
    nodes = np.array(
        [np.all([wide.relations[d][wide.space(d).positions[n]] for d, n in taxonomy.members(u)], axis=0)
         for u in range(len(taxonomy.unified))]
    )  # fmt: skip
    shared = wide.relations[space.name].astype(int) @ nodes.T.astype(int)
    relation: Relation = 2 * shared > nodes.sum(1)
    return relation


def _names(c: LabelClass) -> set[str]:
    return {normalise(n) for n in (c.name, *c.synonyms)}


def _members(taxonomy: Taxonomy, node: int) -> list[LabelClass]:
    spaces = {s.name: s for s in taxonomy.spaces}
    return [spaces[d].classes[spaces[d].positions[n]] for d, n in taxonomy.members(node)]


def _threshold(taxonomy: Taxonomy, encode: Encode) -> float:
    """Return the median, over the classes of all datasets, of the similarity to the nearest other class of its dataset.

    Of classes, not of nodes: nodes that a coarse class joins have its name in common and yet differ.
    """
    nearest = []
    for space in taxonomy.spaces:
        texts = [_texts(c) for c in space.classes]
        vectors = encode([normalise(text) for ts in texts for text in ts])
        parts = np.split(vectors, np.cumsum([len(ts) for ts in texts])[:-1])
        similarity = best_cosines(parts, parts)
        np.fill_diagonal(similarity, -np.inf)
        nearest.append(similarity.max(1))
    found = np.concatenate(nearest)
    found = found[np.isfinite(found)]
    # Datasets of one class know no false match: then only equal texts are near enough.
    return float(np.median(found)) if len(found) else 1.0 - 1e-6


def _texts(c: LabelClass) -> list[str]:
    return sorted({c.name, *c.synonyms})
