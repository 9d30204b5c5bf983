"""Unified nodes as free parameters under a Boolean map that stands: the last stages of AutoUniSeg.

Ma, Chen, Xue, Pu, "Automated Label Unification for Multi-Dataset Semantic Segmentation with GNNs", NeurIPS 2024
(arXiv 2407.10534), section 3.3. The map is a table of a person or an earlier stage, or what `initial_nodes.py` finds.

Axes: U unified nodes, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from manyseg.errors import UserError
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.methods.base import Schedule, StagePlan
from manyseg.methods.continuation import LabelRows, node_labels
from manyseg.methods.nodes import NodeMethod, plan_after_heads, plan_stage
from manyseg.models import PixelEncoder

__all__ = ["UnifiedNodes"]


class UnifiedNodes(NodeMethod):
    """The map of nodes to classes stands; the nodes' embeddings and the network are learned.

    The map is where the label space starts: `init`. All options are those of `nodes.NodeMethod`.
    """

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        **options: Any,
    ) -> None:
        super().__init__(pixel_encoder, spaces, **options)
        self._taxonomy, self._kept = self.initial.taxonomy, self.initial.kept
        shape = len(self._taxonomy.unified), pixel_encoder.channels
        self.nodes = nn.Parameter(torch.randn(shape) / math.sqrt(pixel_encoder.channels))

    @property
    def taxonomy(self) -> Taxonomy:
        """The map, with the nodes that pruning left."""
        return self._taxonomy

    def fixed_nodes(self) -> Float[Tensor, "U C"]:
        """Return the nodes' embeddings."""
        return self.nodes

    def label_rows(self) -> Sequence[LabelRows]:
        """Return the nodes' embeddings; for methods that have biases, these are 0."""
        labels, none = node_labels(self._taxonomy), torch.zeros(len(self.nodes))
        return [
            LabelRows("nodes", "weight", labels, [*self.nodes], self.scale),
            LabelRows("nodes", "bias", labels, [*none], self.scale),
        ]

    def inherit(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Start the nodes at the mean heads of their classes, or at those of the table's nodes that pruning left."""
        out = dict(weights)
        heads, nodes = self.head_means(weights), weights.get("nodes")
        if heads is not None:
            out["nodes"] = heads
        elif nodes is not None and len(nodes) > max(self._kept):
            out["nodes"] = nodes[self._kept]
        return out

    @classmethod
    def default_stages(cls, options: Any, train: Schedule) -> list[StagePlan]:
        """Divide the steps: two fifths for heads, which say what is confused with what, the others for the nodes."""
        if train.steps < 2:
            raise UserError("train.steps is 1; unified_nodes needs 2 at least, one for each of its stages")
        steps = max(1, round(0.4 * train.steps))
        heads, start = plan_after_heads(options, train, steps)
        return [heads, plan_stage(train, "nodes", train.steps - steps, start)]
