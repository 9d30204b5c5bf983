"""AutoUniSeg: unified nodes, and which classes they are, learned by a graph network over the labels of all datasets.

Ma, Chen, Xue, Pu, "Automated Label Unification for Multi-Dataset Semantic Segmentation with GNNs", NeurIPS 2024
(arXiv 2407.10534). Where the authors' code differs from the paper, or from what it is meant to do, docs/autouniseg.md
says what is done here. This is the stage of the graph; what it learned is trained on by `unified_nodes`.

Axes: B images, D classes of one dataset, T classes of all, U unified nodes, C channels, F features of a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from manyseg import losses
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import JointClasses, LabelSpace, Taxonomy
from manyseg.losses import MeanLoss
from manyseg.methods.autouniseg_options import RENAMED, GraphOptions
from manyseg.methods.base import Schedule, StagePlan, dense_labels, step_seed
from manyseg.methods.continuation import LabelRows, node_labels
from manyseg.methods.initial_nodes import named
from manyseg.methods.label_features import label_features
from manyseg.methods.nodes import NodeMethod, plan_after_heads, plan_stage
from manyseg.methods.rounding import Rounding
from manyseg.methods.sources import StageStatistics, StageTaxonomy
from manyseg.models import Features, PixelEncoder
from manyseg.models.graph import Graph, LabelGraph, orthogonality

__all__ = ["AutoUniSeg"]

TURNS = 5
"""Turns of the graph stage: graph, network, graph, network, graph."""

TURN = 20_000
"""Steps of a turn where nobody says how many (the authors' code)."""

LEARNED_WIDTH = 256
"""Width of label vectors that are learned."""

EDGE_END = 0.75
"""Part of a graph turn after which the adjacency stands still, and the embeddings adapt to the Boolean map."""


class _Map(NamedTuple):
    """What follows from the Boolean map."""

    taxonomy: Taxonomy
    active: Int[Tensor, " N"]
    """The nodes that have a class, in the taxonomy's order."""


class AutoUniSeg(NodeMethod):
    """The label graph gives nodes and map, in turns with the network: each is frozen while the other learns.

    The map is soft while the graph learns, and rounded to a Boolean one. `graph` are the network over the labels and
    its training; all other options are those of `nodes.NodeMethod`.
    """

    renamed: ClassVar[Mapping[str, str]] = RENAMED

    label_tensors: ClassVar[tuple[str, ...]] = ("graph.", "rounding.")

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        *,
        graph: GraphOptions = GraphOptions(),
        **options: Any,
    ) -> None:
        super().__init__(pixel_encoder, spaces, **options)
        self.options = graph
        self.turn = graph.turn or TURN
        classes = JointClasses(self.spaces)
        self._rows = classes.rows
        labels: int | Tensor = LEARNED_WIDTH
        if graph.features != "learned":
            vectors = label_features(
                self.spaces, graph.features, options.get("encoder"), graph.descriptions, graph.centre
            )
            labels = torch.from_numpy(vectors)
        self.graph = LabelGraph(
            classes.sizes,
            torch.from_numpy(self.relation),
            labels,
            pixel_encoder.channels,
            hidden=graph.hidden,
            dropout=graph.dropout,
            dataset_embedding=graph.dataset_embedding,
            saturated=graph.saturated,
        )
        self.rounding = Rounding(classes, self.relation, graph.prune)
        # Parts that the trainer keeps fixed before the first step stay so.
        self._network: list[nn.Parameter] | None = None
        self._learning, self._rho, self._seed = True, 0.0, 0
        self._map: _Map | None = None
        self._nodes: Tensor | None = None
        self._pass: Graph | None = None
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    # The label space, and the nodes while the graph does not learn.

    @property
    def taxonomy(self) -> Taxonomy:
        """The Boolean map as it stands, without the nodes that it gives no class (section 3.2)."""
        return self._rounded().taxonomy

    def _rounded(self) -> _Map:
        if self._map is None:
            maps = self.rounding.maps
            taxonomy = named(self.spaces, maps.cpu().numpy(), self.initial.names)
            self._map = _Map(taxonomy, maps.any(0).nonzero().flatten())
        return self._map

    def _active(self, nodes: Float[Tensor, "N C"]) -> Float[Tensor, "U C"]:
        """Return the embeddings of the nodes that have a class, in the taxonomy's order."""
        return nodes[self._rounded().active.to(nodes.device)]

    @torch.no_grad()
    def fixed_nodes(self) -> Float[Tensor, "U C"]:
        """Return what the graph gives without dropout, computed once until it learns or another state is loaded."""
        if self._nodes is None:
            mode = self.graph.training
            self.graph.eval()
            self._nodes = self._active(self.graph().nodes)
            self.graph.train(mode)
        return self._nodes.to(self.device)

    def label_rows(self) -> Sequence[LabelRows]:
        """Return the embeddings that the graph gives the nodes, for methods whose nodes have no graph."""
        nodes, labels = self.fixed_nodes().clone(), node_labels(self.taxonomy)
        return [LabelRows("nodes", "weight", labels, [*nodes], self.scale)]

    def inherit(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Fit the graph's last layer to the mean heads of the nodes' classes."""
        out, heads = dict(weights), self.head_means(weights)
        if heads is not None:
            out["graph.outward.weight"], out["graph.outward.bias"] = self.graph.fitted(heads, self.options.ridge)
        return out

    def handover(self) -> dict[str, Tensor]:
        """Return the state, and the embeddings of the taxonomy's nodes as `nodes`."""
        return {**self.state_dict(), "nodes": self.fixed_nodes()}

    # Scores and losses while the graph learns.

    def train_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B A h w"]:
        """Return the classes' scores; in a graph turn through the soft map, the Boolean one, or both, in this order.

        Only the soft map has a gradient (section 3.2: "we directly use the value of the learnable adjacency").
        """
        if not self._learning:
            return self.dataset_scores(embedding, space)
        graph = self._graph_pass()
        out = []
        if self._rho < 1:
            out.append(self._soft(graph.nodes, graph.shares[self._rows[space.name]], embedding))
        if self._rho > 0:
            out.append(self.class_scores(self._active(graph.nodes), embedding, self.relation_index(space)))
        return torch.cat(out, 1)

    def pixel_loss(self, scores: Float[Tensor, "B A h w"], batch: Batch) -> MeanLoss:
        """Return the cross entropy; between soft and Boolean map, both, weighed by how far the annealing is."""
        labels, parts = dense_labels(batch), torch.split(scores, len(batch.space), 1)
        weights = (1.0,) if len(parts) == 1 else (1 - self._rho, self._rho)
        found = [
            losses.cross_entropy(part, labels, ohem=self.ohem, align_corners=self.align_corners).named(f"map{i}")
            for i, part in enumerate(parts)
        ]
        return reduce(add, (loss * weight for loss, weight in zip(found, weights, strict=True)))

    def step_losses(self, features: Sequence[Features], batches: Sequence[Batch]) -> list[dict[str, MeanLoss]]:
        """Return the losses of every batch of a step; all share one pass through the graph."""
        self._pass = None
        return super().step_losses(features, batches)

    def shared_loss(self) -> dict[str, Float[Tensor, ""]]:
        """Return the orthogonality loss of the graph's nodes, times its weight."""
        if not self._learning:
            return {}
        loss = orthogonality(self._graph_pass().nodes, self.options.orthonormal)
        return {"orthogonality": self.options.orthogonality * loss}

    def _graph_pass(self) -> Graph:
        if self._pass is None:
            # Dropout is the same in all processes, for all of them learn one graph.
            self._pass = self.graph(torch.Generator(self.device).manual_seed(self._seed))
        return self._pass

    def _soft(
        self, nodes: Float[Tensor, "U C"], shares: Float[Tensor, "D U"], embedding: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B D h w"]:
        if self.combine == "sum":
            return self.dot(shares @ nodes, embedding)
        unified = self.dot(nodes, embedding).float()
        top = unified.detach().amax(1, keepdim=True)
        total = nn.functional.conv2d((unified - top).exp(), shares[:, :, None, None])
        return top + total.clamp(min=torch.finfo(total.dtype).tiny).log()

    # Turns.

    def on_step(self, step: int) -> None:
        """Take turns: freeze graph or network, anneal from the soft to the Boolean map, and round it when it is time.

        What is frozen asks for no gradient and gets none, not zero: neither momentum nor decay moves it.
        """
        turn, at = divmod(step, self.turn)
        start, end = int(self.options.edge_start * self.turn), int(EDGE_END * self.turn)
        self._learning, edges = turn % 2 == 0, start <= at < end
        self._freeze(self._learning, edges)
        if not self._learning:
            return
        self._nodes, self._seed = None, step_seed()
        self._rho = min(at / end, 1.0) if end else 1.0
        # The authors round every 100 steps of a turn of 20,000.
        if at == end or (edges and at % max(1, min(100, self.turn // 10)) == 0):
            self.rounding.update(self.graph.shares().detach())
            self._map = None

    def _freeze(self, network: bool, edges: bool) -> None:
        """Freeze the network, its norms' statistics too, and let the graph learn, or the other way round."""
        if self._network is None:
            self._network = [p for p in self.pixel_encoder.parameters() if p.requires_grad]
        for p in self._network:
            p.requires_grad_(not network)
        for p in self.graph.parameters():
            p.requires_grad_(network)
        self.graph.adjacency.requires_grad_(network and edges)
        if self.pixel_encoder.training == network:
            self.pixel_encoder.train(not network)

    def lr_factor(self, name: str) -> float:
        """Return the adjacency's own rate, that of the rest of the graph, or 1 for the network."""
        if name == "graph.adjacency":
            return self.options.edge_lr
        return self.options.lr_factor if name.startswith("graph.") else 1.0

    # Stages.

    @classmethod
    def default_stages(cls, options: Any, train: Schedule) -> list[StagePlan]:
        """Divide the steps: two fifths for heads, one for the graph in five turns, two for free nodes.

        In the middle of the last part nodes are pruned by usage, and the learning rate goes on. Warm-ups are divided as
        steps are.
        """
        total = train.steps
        if total < 4:
            raise UserError(f"train.steps is {total}; autouniseg needs 4 at least, one for each of its stages")
        # Every stage has a step at least: the first may not take those of the three after it.
        ends = [min(max(k + 1, round(total * part)), total - 3 + k) for k, part in enumerate((0.4, 0.6, 0.8))]
        heads, graph, nodes, last = (b - a for a, b in zip([0, *ends], [*ends, total], strict=True))
        first, start = plan_after_heads(options, train, heads)
        turn = {} if options.graph.turn else {"graph": {"turn": -(-graph // TURNS)}}
        shared = {
            key: getattr(options, key) for key in ("combine", "normalise", "scale", "align_corners", "pruning", "ohem")
        }
        free = {"name": "unified_nodes", **shared}
        pruned = {**free, "init": StageTaxonomy("nodes"), "statistics": StageStatistics("nodes")}
        return [
            first,
            plan_stage(train, "graph", graph, turn | start),
            plan_stage(train, "nodes", nodes, {**free, "init": StageTaxonomy("graph")}, after=last),
            plan_stage(train, "pruned", last, pruned, before=nodes),
        ]


def _forget(method: AutoUniSeg, *_: object) -> None:
    """Drop what follows from the state, after another one was loaded."""
    method._map = method._nodes = method._pass = None
