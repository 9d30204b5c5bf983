"""Unified nodes with an embedding each, read by every dataset through a Boolean map: what AutoUniSeg's stages share.

Axes: B images, D classes of one dataset, T classes of all, U unified nodes, C channels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from manyseg import losses
from manyseg.labels import LabelSpace
from manyseg.losses import RelationIndex
from manyseg.methods.base import Schedule, StagePlan
from manyseg.methods.initial_nodes import (
    READS_CONFUSIONS,
    InitialSource,
    MergeOptions,
    PruningOptions,
    initial_nodes,
)
from manyseg.methods.pixel import PixelMethod
from manyseg.methods.sources import StageStatistics, StatisticsSource, TaxonomySource
from manyseg.models import PixelEncoder

__all__ = ["Combine", "NodeMethod", "plan_after_heads", "plan_stage"]

Combine = Literal["sum", "lse"]
"""How a class's score follows from its nodes': their sum, or the logarithm of the sum of their exponentials."""


class NodeMethod(PixelMethod):
    """Scores are dot products of pixel embeddings and unified nodes; classes are read through a Boolean map.

    Its keywords are options of both methods. `init` is where the label space starts, see `initial_nodes.initial_nodes`,
    with the options `merge` of the merge programme and the text `encoder`; where it is a table and there are
    `statistics` of a model that has it, links are lost by `pruning`. `combine` "sum" adds up the scores of a class's
    nodes (AutoUniSeg, equation 5), "lse" their exponentials. `normalise` takes the direction of a pixel's embedding
    only, and `scale` multiplies scores. With `warm`, nodes start at the heads of the stage before, where it has heads.
    `align_corners` puts corner cells on corner pixels where scores are upsampled, as the authors do; otherwise pixels
    have half-pixel centres. `ohem` keeps the hardest pixels.
    """

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        *,
        init: InitialSource | TaxonomySource = "confusion",
        statistics: StatisticsSource | None = None,
        encoder: str | None = None,
        merge: MergeOptions = MergeOptions(),
        pruning: PruningOptions = PruningOptions(),
        combine: Combine = "sum",
        normalise: bool = False,
        scale: float = 1.0,
        warm: bool = True,
        align_corners: bool = False,
        ohem: float | None = None,
    ) -> None:
        super().__init__(pixel_encoder, spaces, ohem)
        self.initial = initial_nodes(spaces, init, statistics, encoder, merge, pruning)
        """The label space to begin with."""
        self.relation: Bool[np.ndarray, "T U"] = self.initial.taxonomy.joint_relation
        """Which nodes each class has to begin with."""
        self.combine, self.normalise, self.scale, self.warm = combine, normalise, scale, warm
        self.align_corners = align_corners

    @abstractmethod
    def fixed_nodes(self) -> Float[Tensor, "U C"]:
        """Return the embeddings of the taxonomy's nodes, as they stand, for prediction."""

    def unified(self, embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B U h w"]:
        """Return the nodes' scores (equation 4)."""
        return self.dot(self.fixed_nodes(), embedding)

    def relate(self, unified: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
        """Read an unseen dataset's classes: where scores are summed in training, through the best node of each.

        Of sums only those can be compared that were trained against each other; the authors too map the best node.
        """
        return losses.class_max(unified, index) if self.combine == "sum" else losses.class_logsumexp(unified, index)

    def dataset_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B D h w"]:
        """Return the scores of a training dataset's classes through the Boolean map (equation 5)."""
        return self.class_scores(self.fixed_nodes(), embedding, self.relation_index(space))

    def dot(self, nodes: Float[Tensor, "N C"], embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B N h w"]:
        """Return the dot products of nodes and pixels, or of nodes and the pixels' directions, times the scale."""
        if self.normalise:
            embedding = F.normalize(embedding, dim=1)
        return F.conv2d(embedding, (self.scale * nodes)[:, :, None, None])

    def class_scores(
        self, nodes: Float[Tensor, "U C"], embedding: Float[Tensor, "B C h w"], index: RelationIndex
    ) -> Float[Tensor, "B D h w"]:
        """Return the scores of the classes that `index` gives nodes; a sum is folded into the nodes, (M X) p."""
        if self.combine == "lse":
            return losses.class_logsumexp(self.dot(nodes, embedding), index)
        return self.dot(index.matrix.to(nodes.dtype) @ nodes, embedding)

    def head_means(self, weights: Mapping[str, Tensor]) -> Float[Tensor, "U C"] | None:
        """Return the mean head of each node's classes, so scaled that nodes score as heads do.

        None where the weights of the stage before have no head for every class, or nodes do not start `warm`.
        """
        heads = weights.get("classes", weights.get("head.weight"))
        if heads is None or not self.warm or len(heads) != len(self.relation):
            return None
        share = torch.from_numpy(self.relation).to(heads)
        return share.T @ heads.flatten(1) / (self.scale * share.sum(0)[:, None])


class _InitialOptions(Protocol):
    """The options that decide what is trained before the nodes."""

    init: InitialSource | TaxonomySource
    normalise: bool
    scale: float
    align_corners: bool
    ohem: float | None


def plan_stage(train: Schedule, name: str, steps: int, method: Mapping[str, Any], **schedule: int) -> StagePlan:
    """Return a stage; its warm-up is the part of the run's that its schedule has of the run's steps.

    `schedule` gives `before` or `after`, the steps of the same schedule that other stages have.
    """
    warmup = round(train.warmup * (steps + sum(schedule.values())) / train.steps)
    return StagePlan(name=name, steps=steps, method=dict(method), train={"warmup": warmup} | schedule)


def plan_after_heads(options: _InitialOptions, train: Schedule, steps: int) -> tuple[StagePlan, dict[str, Any]]:
    """Return a first stage of `steps` steps that trains a head a dataset, and what the next stage reads of it.

    Where nodes are compared with normalised pixels, heads are too, so that nodes start exactly where heads ended.
    """
    own: dict[str, Any] = {} if options.ohem is None else {"ohem": options.ohem}
    if options.normalise:
        own |= {"bias": False, "normalise": True, "scale": options.scale}
    if options.align_corners:
        own |= {"align_corners": True}
    heads = plan_stage(train, "heads", steps, {"name": "multihead"} | own)
    return heads, {"statistics": StageStatistics(heads.name)} if options.init in READS_CONFUSIONS else {}
