"""Relating an unseen dataset's classes to unified nodes: by names, by text, or by a map fitted on labelled images.

A relation is Bool[D, U]. Names and text read no label of the target; rows may then be empty, and such classes score
IoU 0. A fitted map (AutoUniSeg's protocol) reads labels, of images that are not scored, and gives every node a class.
The three are never mixed in one mean.

Axes: D classes of the target, U unified nodes, F features of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from manyseg.assign import map_by_iou
from manyseg.confusion import Confusion
from manyseg.errors import UserError
from manyseg.labels import LabelClass, LabelSpace, Relation, Taxonomy, normalise
from manyseg.statistics import Statistics

__all__ = ["CrossTable", "Encode", "cross_table", "map_counts", "relate_by_names", "relate_by_text", "unmapped"]

Encode = Callable[[list[str]], np.ndarray]
"""Turns N texts into unit vectors Float[N, F]."""


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
        own = [not names.isdisjoint(_names(node)) for names in targets]
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
    similarity = _best_cosines(classes, unified)
    near = np.array(similarity > _threshold(taxonomy, encode), bool)
    relation: Relation = np.array(near & (similarity == similarity.max(0, keepdims=True)), bool)
    return relation


def _names(c: LabelClass) -> set[str]:
    return {normalise(n) for n in (c.name, *c.synonyms)}


def _members(taxonomy: Taxonomy, node: int) -> list[LabelClass]:
    spaces = {s.name: s for s in taxonomy.spaces}
    return [spaces[d].classes[spaces[d].positions[n]] for d, n in taxonomy.members(node)]


def _best_cosines(rows: list[np.ndarray], columns: list[np.ndarray]) -> Float[np.ndarray, "R C"]:
    """Return the largest cosine between the texts of every row and those of every column."""
    cosines = np.concatenate(rows) @ np.concatenate(columns).T
    starts = [np.cumsum([0, *(len(p) for p in parts[:-1])]) for parts in (rows, columns)]
    best: np.ndarray = np.maximum.reduceat(np.maximum.reduceat(cosines, starts[0], 0), starts[1], 1)
    return best


def _threshold(taxonomy: Taxonomy, encode: Encode) -> float:
    """Return the median, over the classes of all datasets, of the similarity to the nearest other class of its dataset.

    Of classes, not of nodes: nodes that a coarse class joins have its name in common and yet differ.
    """
    nearest = []
    for space in taxonomy.spaces:
        texts = [_texts(c) for c in space.classes]
        vectors = encode([normalise(text) for ts in texts for text in ts])
        parts = np.split(vectors, np.cumsum([len(ts) for ts in texts])[:-1])
        similarity = _best_cosines(parts, parts)
        np.fill_diagonal(similarity, -np.inf)
        nearest.append(similarity.max(1))
    found = np.concatenate(nearest)
    found = found[np.isfinite(found)]
    # Datasets of one class know no false match: then only equal texts are near enough.
    return float(np.median(found)) if len(found) else 1.0 - 1e-6


def _texts(c: LabelClass) -> list[str]:
    return sorted({c.name, *c.synonyms})


def map_counts(counts: Int64[np.ndarray, "D U"], relation: Relation) -> Int64[np.ndarray, "D D+1"]:
    """Turn counts of predicted nodes into counts of predicted classes; a node gives its pixels to its only class.

    Pixels of a node of no class go to the last column. Raises ValueError if a node has several classes.
    """
    if (relation.sum(0) > 1).any():
        raise ValueError("a node belongs to several classes; counts of nodes cannot be divided between them")
    by_class = counts @ relation.T.astype(np.int64)
    return np.hstack([by_class, (counts.sum(1) - by_class.sum(1))[:, None]])


@dataclass(frozen=True)
class CrossTable:
    """Every head of a model, and its unified nodes, on every dataset, each through a fitted map."""

    confusions: Mapping[tuple[str, str], Confusion]
    """By (target dataset, head)."""

    def to_markdown(self) -> str:
        """Render mIoU in per cent: a row a head, a column a dataset, and the arithmetic mean over the datasets."""
        targets = list(dict.fromkeys(t for t, _ in self.confusions))
        heads = list(dict.fromkeys(h for _, h in self.confusions))
        lines = [f"| head | {' | '.join(targets)} | mean |", "|---" + "|---:" * (len(targets) + 1) + "|"]
        for head in heads:
            values = [self.confusions[t, head].miou if (t, head) in self.confusions else float("nan") for t in targets]
            cells = [_percent(v) for v in (*values, float(np.mean(values)))]
            lines.append(f"| {head} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"


def cross_table(spaces: Mapping[str, LabelSpace], fit: Statistics, score: Statistics) -> CrossTable:
    """Score every head against every dataset that both statistics hold (AutoUniSeg, Table 3).

    `spaces` are the targets' label spaces by name. The map from a head's classes to a target's is fitted on `fit`
    (least cost, 1 - IoU) and scored on `score`, also for a target's own head: the protocol is "labels" throughout.
    Raises UserError if the two saw the same image of a target, or are of different models.
    """
    if fit.key != score.key:
        raise UserError(
            "the statistics to fit maps and to score them are of different models; collect both from one run"
        )
    out = {}
    for target, head in fit.counts:
        if target not in spaces or (target, head) not in score.counts:
            continue
        if shared := len(np.intersect1d(fit.images[target], score.images[target])):
            raise UserError(
                f"{shared} images of '{target}' would both fit the map and be scored; take another split for the map"
            )
        relation = map_by_iou(fit.counts[target, head])
        out[target, head] = Confusion(spaces[target], map_counts(score.counts[target, head], relation))
    return CrossTable(out)
