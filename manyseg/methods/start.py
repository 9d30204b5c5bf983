"""Where a learned label space starts: nodes and links from confusions, texts, names or a table, and texts as vectors.

Axes: T classes of all datasets together, D classes of one, U unified nodes, F features of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from manyseg.errors import UserError
from manyseg.labels import JointClasses, LabelSpace, Taxonomy
from manyseg.labels.names import node_names
from manyseg.methods.sources import TaxonomySource, propose_by_text, resolve_taxonomy
from manyseg.models.text import TextEncoder
from manyseg.relate import confusion_rates, merge, propose, recall_matrix
from manyseg.relate.assignment import prune_by_usage
from manyseg.relate.statistics import UNIFIED, Statistics

__all__ = ["Start", "label_features", "label_texts", "links", "named", "pruned", "starting_taxonomy"]

Start = Literal["confusion", "both", "text", "names", "disjoint"]
"""What a label space may start from, beside a table."""


def starting_taxonomy(
    spaces: Sequence[LabelSpace],
    start: Start | TaxonomySource,
    statistics: Statistics | None,
    encoder: str | None,
    *,
    tau: float,
    pair_cost: float,
    reward: float,
) -> Taxonomy:
    """Return the label space to begin with, in which no node has two classes of one dataset.

    "confusion" merges classes by the published programme (`relate.merge`; AutoUniSeg, Appendix B), "both" and "text"
    take `relate.propose`, with parts in their wholes; "names" unites equal names, "disjoint" nothing. A path is a
    table, a person's or another run's. Raises UserError where confusions are asked for and no statistics were given.
    """
    if not isinstance(start, str):
        return _exclusive(resolve_taxonomy(start, spaces), start)
    if start == "disjoint":
        return Taxonomy.disjoint(spaces)
    if start == "names":
        return Taxonomy.by_name(spaces)
    if start == "text":
        return propose_by_text(spaces, encoder)
    if statistics is None:
        raise UserError(
            f"method.init is '{start}', which reads the confusions of a model with one head a dataset; name them in "
            "method.statistics, leave the stages to the method, or choose text, names, disjoint or a table"
        )
    counts = {(a, b): array for (a, b), array in statistics.counts.items() if b != UNIFIED}
    if start == "both":
        return propose(spaces, by="both", encode=TextEncoder(encoder).encode, confusion=counts).taxonomy
    classes = JointClasses(tuple(spaces))
    recall = recall_matrix(confusion_rates(classes, counts), classes)
    clusters = merge(recall, classes.sizes, tau, pair_cost, reward)
    return Taxonomy.from_groups(spaces, [[classes.keys[i] for i in c] for c in clusters])


def _exclusive(taxonomy: Taxonomy, source: TaxonomySource) -> Taxonomy:
    for space in taxonomy.spaces:
        several = taxonomy.relations[space.name].sum(0) > 1
        if several.any():
            node = taxonomy.unified.names[int(several.argmax())]
            place = source if isinstance(source, Path) else "the taxonomy"
            raise UserError(
                f"{place}: {several.sum()} nodes have several classes of '{space.name}' ('{node}' first); a node may "
                "have one of each dataset: give each class a row of its own"
            )
    return taxonomy


def links(taxonomy: Taxonomy) -> Bool[np.ndarray, "T U"]:
    """Return the relations of all datasets below each other."""
    return taxonomy.joint_relation


def named(
    spaces: Sequence[LabelSpace], relation: Bool[np.ndarray, "T N"], names: Sequence[str] | None = None
) -> Taxonomy:
    """Return the taxonomy of a relation, without the nodes that have no class; `names` are all nodes'.

    Without names a node is called as its members are, each vote divided by the number of nodes that the member has: the
    lane marking within two datasets' roads is called as the third calls it.
    """
    keys = JointClasses(tuple(spaces)).keys
    alive = np.flatnonzero(relation.any(0))
    groups = [[keys[i] for i in np.flatnonzero(relation[:, u])] for u in alive]
    if names is not None:
        return Taxonomy.from_groups(spaces, groups, [names[int(u)] for u in alive])
    votes = relation / relation.sum(1, keepdims=True).clip(min=1)
    found = node_names(groups, [votes[relation[:, u], u].tolist() for u in alive])
    return Taxonomy.from_groups(spaces, groups, found)


def pruned(taxonomy: Taxonomy, statistics: Statistics, least: float, absent: float) -> tuple[Taxonomy, list[int]]:
    """Return the taxonomy less links that are hardly used, and which of its nodes are left.

    A class keeps the nodes that take more than `least` of its pixels among its nodes, but none that takes more than the
    share `absent` of its own pixels where the dataset has no label (`prune_by_usage`). A node without any class left is
    removed. `statistics` are of a model with that taxonomy.
    """
    parts = []
    for space in taxonomy.spaces:
        relation = taxonomy.relations[space.name]
        counts = statistics.counts.get((space.name, UNIFIED))
        if counts is None or counts.shape != relation.shape:
            found = "none" if counts is None else str(list(counts.shape))
            raise UserError(
                f"the usage of nodes by '{space.name}' is to be {list(relation.shape)}, the statistics hold {found}; "
                "give those of a model of the same table, or none"
            )
        parts.append(prune_by_usage(relation, counts, statistics.unlabelled[space.name, UNIFIED], least, absent))
    relation = np.concatenate(parts)
    kept: list[int] = np.flatnonzero(relation.any(0)).tolist()
    return named(taxonomy.spaces, relation, taxonomy.unified.names), kept


# Texts.


def label_texts(spaces: Sequence[LabelSpace], descriptions: bool) -> list[str]:
    """Return a sentence a class: the paper's template, then what the card says of the class, where it does."""
    out = []
    for space in spaces:
        for c in space.classes:
            text = f"An image of {c.name.replace('_', ' ')} from the dataset {space.name.replace('_', ' ')}."
            out.append(f"{text} {c.description}" if descriptions and c.description else text)
    return out


def label_features(
    spaces: Sequence[LabelSpace],
    features: Literal["text"] | Path,
    encoder: str | None,
    descriptions: bool,
    centre: bool,
) -> Float[np.ndarray, "T F"]:
    """Return one vector a class, of a text encoder or of a file.

    The file is an .npy of [T, F] in recipe order, or an .npz with an array [D, F] for every dataset by name. `centre`
    takes off the mean text and scales the entries to a variance of 1, as a linear layer expects of its inputs: what all
    texts have in common is most of a text vector, and says nothing of any class.
    """
    if isinstance(features, Path):
        out = _read(features, spaces)
    else:
        out = TextEncoder(encoder).encode(label_texts(spaces, descriptions)).astype(np.float32)
    if centre and len(out) > 1:
        out = out - out.mean(0)
        out = out / max(float(out.std()), 1e-12)
    return out


def _read(file: Path, spaces: Sequence[LabelSpace]) -> Float[np.ndarray, "T F"]:
    try:
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            out = found
        else:
            with found:
                parts = {s.name: found[s.name] for s in spaces}
            wrong = [s.name for s in spaces if parts[s.name].ndim != 2 or len(parts[s.name]) != len(s)]
            if wrong:
                raise UserError(f"{file}: '{wrong[0]}' is {list(parts[wrong[0]].shape)}; give one row a class")
            out = np.concatenate([parts[s.name] for s in spaces])
    except (OSError, ValueError, KeyError, EOFError) as e:
        reason = " ".join(str(e).split())
        raise UserError(f"{file}: no features of labels ({reason}); give an .npy or an .npz by dataset") from None
    T = len(JointClasses(tuple(spaces)))
    if out.ndim != 2 or len(out) != T or not np.isfinite(out).all():
        raise UserError(f"{file}: the features are {list(out.shape)} or not finite; give {T} finite rows, one a class")
    return out.astype(np.float32)
