"""The nodes and links that a learned label space starts from: confusions, texts, names or a table.

Axes: T classes of all datasets together, D classes of one, U unified nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool
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
    "InitialNodes",
    "InitialSource",
    "MergeOptions",
    "PruningOptions",
    "initial_nodes",
    "named",
    "pruned",
]

InitialSource = Literal["confusion", "both", "text", "names", "disjoint"]
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


class InitialNodes(NamedTuple):
    """Where a label space starts."""

    taxonomy: Taxonomy
    """In which no node has two classes of one dataset."""
    kept: list[int]
    """The positions, in the table that was given, of the nodes that are left of it; all where nothing was pruned."""
    names: tuple[str, ...] | None
    """The nodes' names where a person gave them: they stay, while others follow from the classes of a node."""


def initial_nodes(
    spaces: Sequence[LabelSpace],
    init: InitialSource | TaxonomySource,
    statistics: StatisticsSource | None,
    encoder: str | None,
    merge: MergeOptions,
    pruning: PruningOptions,
) -> InitialNodes:
    """Return the label space to begin with.

    "confusion" merges classes by the published programme with the options `merge`, "both" and "text" take
    `relate.propose` with the text `encoder`, parts in their wholes; "names" unites equal names, "disjoint" nothing.
    Anything else is a table, a person's or another run's, and loses what `pruning` says by the statistics, where they
    are given. Raises UserError where confusions are asked for and no statistics were given.
    """
    known = None if statistics is None else resolve_statistics(statistics)
    if isinstance(init, str):
        taxonomy = _found(spaces, init, known, encoder, merge)
        return InitialNodes(taxonomy, list(range(len(taxonomy.unified))), None)
    taxonomy = _exclusive(resolve_taxonomy(init, spaces), init)
    kept = list(range(len(taxonomy.unified)))
    if known is not None:
        taxonomy, kept = pruned(taxonomy, known, pruning)
    return InitialNodes(taxonomy, kept, taxonomy.unified.names)


def _found(
    spaces: Sequence[LabelSpace],
    source: InitialSource,
    statistics: Statistics | None,
    encoder: str | None,
    options: MergeOptions,
) -> Taxonomy:
    if source == "disjoint":
        return Taxonomy.disjoint(spaces)
    if source == "names":
        return Taxonomy.by_name(spaces)
    if source == "text":
        return propose_by_text(spaces, encoder)
    if statistics is None:
        raise UserError(
            f"method.init is '{source}', which reads the confusions of a model with one head a dataset; name them in "
            "method.statistics, leave the stages to the method, or choose text, names, disjoint or a table"
        )
    counts = {(a, b): array for (a, b), array in statistics.counts.items() if b != UNIFIED}
    if source == "both":
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
