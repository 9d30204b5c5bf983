"""Where a learned label space starts: nodes and links from confusions, texts, names or a table, and texts as vectors.

Axes: T classes of all datasets together, D classes of one, U unified nodes, F features of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field

from manyseg.errors import UserError
from manyseg.labels import JointClasses, LabelSpace, Taxonomy
from manyseg.labels.names import node_names
from manyseg.methods.sources import (
    StatisticsSource,
    TaxonomySource,
    propose_by_text,
    resolve_statistics,
    resolve_taxonomy,
)
from manyseg.models.text import TextEncoder
from manyseg.relate import confusion_rates, merge, propose, recall_matrix
from manyseg.relate.assignment import prune_by_usage
from manyseg.relate.statistics import UNIFIED, Statistics

__all__ = [
    "READS_CONFUSIONS",
    "MergeOptions",
    "PruningOptions",
    "Start",
    "StartingNodes",
    "label_features",
    "label_texts",
    "named",
    "pruned",
    "starting_nodes",
]

Start = Literal["confusion", "both", "text", "names", "disjoint"]
"""What a label space may start from, beside a table."""

READS_CONFUSIONS = ("confusion", "both")
"""What a label space cannot start from without the statistics of a model with a head a dataset."""


class MergeOptions(BaseModel):
    """The merge programme, which fixes the number of nodes (`relate.merge`; AutoUniSeg, Appendix B)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tau: float = Field(
        default=0.4,
        ge=0,
        description="Two classes may merge where each recalls the other by more than its own recall less this.",
    )
    pair_cost: float = Field(
        default=0.4, ge=0, description="Largest cost of two merged classes; the authors have 0.05, tau keeps all pairs."
    )
    reward: float = Field(default=0.5, ge=0, description="What every node that is saved is worth.")


class PruningOptions(BaseModel):
    """Which links a table loses by the statistics of a model that has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usage: float = Field(
        default=0.01, ge=0, le=1, description="A node with no more than this share of a class's pixels is unlinked."
    )
    absent: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="So is one with more than this share of its pixels where the dataset has no label; the authors: 1.",
    )


class StartingNodes(NamedTuple):
    """Where a label space starts."""

    taxonomy: Taxonomy
    """In which no node has two classes of one dataset."""
    kept: list[int]
    """The positions, in the table that was given, of the nodes that are left of it; all where nothing was pruned."""
    names: tuple[str, ...] | None
    """The nodes' names where a person gave them: they stay, while others follow from the classes of a node."""


def starting_nodes(
    spaces: Sequence[LabelSpace],
    init: Start | TaxonomySource,
    statistics: StatisticsSource | None,
    encoder: str | None,
    merge: MergeOptions,
    pruning: PruningOptions,
) -> StartingNodes:
    """Return the label space to begin with.

    "confusion" merges classes by the published programme with the options `merge`, "both" and "text" take
    `relate.propose` with the text `encoder`, parts in their wholes; "names" unites equal names, "disjoint" nothing.
    Anything else is a table, a person's or another run's, and loses what `pruning` says by the statistics, where they
    are given. Raises UserError where confusions are asked for and no statistics were given.
    """
    known = None if statistics is None else resolve_statistics(statistics)
    if isinstance(init, str):
        taxonomy = _found(spaces, init, known, encoder, merge)
        return StartingNodes(taxonomy, list(range(len(taxonomy.unified))), None)
    taxonomy = _exclusive(resolve_taxonomy(init, spaces), init)
    kept = list(range(len(taxonomy.unified)))
    if known is not None:
        taxonomy, kept = pruned(taxonomy, known, pruning)
    return StartingNodes(taxonomy, kept, taxonomy.unified.names)


def _found(
    spaces: Sequence[LabelSpace],
    start: Start,
    statistics: Statistics | None,
    encoder: str | None,
    options: MergeOptions,
) -> Taxonomy:
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
    clusters = merge(recall, classes.sizes, options.tau, options.pair_cost, options.reward)
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


def pruned(taxonomy: Taxonomy, statistics: Statistics, options: PruningOptions) -> tuple[Taxonomy, list[int]]:
    """Return the taxonomy less links that are hardly used, and which of its nodes are left.

    A class keeps the nodes that take more than the share `usage` of its pixels among its nodes, but none that takes
    more than the share `absent` of its own pixels where the dataset has no label (`prune_by_usage`). A node without any
    class left is removed. `statistics` are of a model with that taxonomy.
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
        unlabelled = statistics.unlabelled[space.name, UNIFIED]
        parts.append(prune_by_usage(relation, counts, unlabelled, options.usage, options.absent))
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
        raise UserError(f"{file}: features {list(out.shape)}, or not finite; give {T} finite rows, one for each class")
    return out.astype(np.float32)
