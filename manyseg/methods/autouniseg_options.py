"""The options of AutoUniSeg's graph, and what earlier names of its options are now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["RENAMED", "GraphOptions"]

WIDTH = 64
"""Width of the graph up to which it learns as fast as the network; wider ones learn slower in proportion."""


class GraphOptions(BaseModel):
    """The graph network over the labels, and how it is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    turn: int | None = Field(
        default=None, gt=0, description="Steps of a turn of graph or network; without it, a fifth of the stage's."
    )
    features: Literal["text", "learned"] | Path = Field(
        default="text",
        description="Vectors of the labels: of their texts; learned; or of an .npy [T, F] in recipe order, or an .npz "
        "with an array a dataset.",
    )
    descriptions: bool = Field(default=True, description="The texts go on with the cards' descriptions.")
    centre: bool = Field(default=True, description="Vectors less their mean, with unit variance; the authors: false.")
    dataset_embedding: bool = Field(
        default=False, description="Add a learned vector of the dataset (equation 1); the authors' code: false."
    )
    hidden: int = Field(
        default=2048, gt=0, le=65536, description="Width of the graph's three layers; 512 is enough for 60 labels."
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Of the graph's layers; the authors: 0.5.")
    saturated: bool = Field(
        default=False,
        description="Start from logits 0 and 1, at which linked columns never move, as the authors do; else from a "
        "share of 0.9.",
    )
    lr: float | None = Field(
        default=None,
        gt=0,
        description="Learning rate of the graph as a multiple of train.lr; without it, 64 / hidden, but 1 at most; the "
        "authors: 1.",
    )
    edge_lr: float = Field(default=10.0, gt=0, description="That of the adjacency; the authors: 1.")
    edge_start: float = Field(
        default=0.25,
        ge=0,
        lt=0.75,
        description="Part of a turn after which the adjacency learns: before the embeddings mean anything it would "
        "learn no more than how frequent classes are; the authors: 0.",
    )
    ridge: float = Field(
        default=0.01,
        gt=0,
        description="Penalty of the last layer's fit to the heads: 1e-6 gives their scores, by large weights.",
    )
    orthogonality: float = Field(default=10.0, ge=0, description="Weight of the orthogonality loss (equation 7).")
    orthonormal: bool = Field(
        default=True, description="That loss compares directions alone; the authors: false, long embeddings lower it."
    )
    prune: Literal["share", "mass"] = Field(
        default="share",
        description="Which nodes a rounded map unlinks: those that belong to their class by less than half, or, as the "
        "authors do, those of little mass in the transport plan.",
    )

    @property
    def lr_factor(self) -> float:
        """The learning rate of the graph as a multiple of the network's."""
        return self.lr or min(1.0, WIDTH / self.hidden)


RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "turn": "graph.turn",
        "features": "graph.features",
        "descriptions": "graph.descriptions",
        "centre": "graph.centre",
        "dataset_embedding": "graph.dataset_embedding",
        "hidden": "graph.hidden",
        "dropout": "graph.dropout",
        "saturated": "graph.saturated",
        "graph_lr": "graph.lr",
        "edge_lr": "graph.edge_lr",
        "settle": "graph.edge_start",
        "orthogonality": "graph.orthogonality",
        "orthonormal": "graph.orthonormal",
        "prune": "graph.prune",
        "tau": "merge.tau",
        "pair_cost": "merge.pair_cost",
        "reward": "merge.reward",
        "usage": "pruning.usage",
        "absent": "pruning.absent",
        "learn": 'a method of its own: name = "unified_nodes" in place of learn = "nodes", and nothing for "graph"',
        "null_row": "no option: a node always belongs to a class of every dataset; leave it out",
        "rounding": "no option: maps are rounded by unbalanced transport; leave it out",
        "reg_m": "no option: it is the authors' 5; leave it out",
        "remap": "no option: maps are rounded ten times a turn, and every 100 steps at least; leave it out",
    }
)
"""What options of earlier versions are now."""
