"""Unified nodes as free parameters under a Boolean map that stands: the last stages of AutoUniSeg.

Ma, Chen, Xue, Pu, "Automated Label Unification for Multi-Dataset Semantic Segmentation with GNNs", NeurIPS 2024
(arXiv 2407.10534), section 3.3. The map is a table of a person or an earlier stage, or where `start.py` starts.

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
from manyseg.methods.nodes import Combine, NodeMethod, plan_after_heads, plan_stage
from manyseg.methods.sources import StatisticsSource, TaxonomySource
from manyseg.methods.start import MergeOptions, PruningOptions, Start, starting_nodes
from manyseg.models import PixelEncoder

__all__ = ["UnifiedNodes"]


class UnifiedNodes(NodeMethod):
    """The map of nodes to classes stands; the nodes' embeddings and the network are learned.

    The map is where the label space starts: `init`, see `start.starting_nodes`, with the options `merge` of the merge
    programme, the text `encoder`, and `pruning` where `init` is a table and there are `statistics` of a model that has
    it. `combine`, `normalise`, `scale` and `warm` are those of `nodes.NodeMethod`; `ohem` keeps the hardest pixels.
    """

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        *,
        init: Start | TaxonomySource = "confusion",
        statistics: StatisticsSource | None = None,
        encoder: str | None = None,
        merge: MergeOptions = MergeOptions(),
        pruning: PruningOptions = PruningOptions(),
        combine: Combine = "sum",
        normalise: bool = False,
        scale: float = 1.0,
        warm: bool = True,
        ohem: float | None = None,
    ) -> None:
        start = starting_nodes(spaces, init, statistics, encoder, merge, pruning)
        links = start.taxonomy.joint_relation
        super().__init__(
            pixel_encoder, spaces, links, combine=combine, normalise=normalise, scale=scale, warm=warm, ohem=ohem
        )
        self._taxonomy, self._kept = start.taxonomy, start.kept
        shape = len(self._taxonomy.unified), pixel_encoder.channels
        self.nodes = nn.Parameter(torch.randn(shape) / math.sqrt(pixel_encoder.channels))

    @property
    def taxonomy(self) -> Taxonomy:
        """The map, with the nodes that pruning left."""
        return self._taxonomy

    def fixed_nodes(self) -> Float[Tensor, "U C"]:
        """Return the nodes' embeddings."""
        return self.nodes

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
