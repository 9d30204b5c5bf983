"""AutoUniSeg: unified nodes, and which classes they are, learned by a graph network over the labels of all datasets.

Ma, Chen, Xue, Pu, "Automated Label Unification for Multi-Dataset Semantic Segmentation with GNNs", NeurIPS 2024
(arXiv 2407.10534). Where the authors' code differs from the paper, or from what it is meant to do, docs/autouniseg.md
says what is done here.

Axes: B images, D classes of one dataset, T classes of all, U unified nodes, C channels, F features of a text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg import losses
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import JointClasses, LabelSpace, Taxonomy
from manyseg.losses import RelationIndex
from manyseg.methods.base import PixelMethod, Schedule, StagePlan, dense_labels
from manyseg.methods.rounding import Rounding
from manyseg.methods.sources import (
    StageStatistics,
    StageTaxonomy,
    StatisticsSource,
    TaxonomySource,
    resolve_statistics,
)
from manyseg.methods.start import Start, label_features, links, named, pruned, starting_taxonomy
from manyseg.models import PixelEncoder
from manyseg.models.graph import Graph, LabelGraph, orthogonality

__all__ = ["AutoUniSeg"]

TURNS = 5
"""Turns of the graph stage: graph, network, graph, network, graph."""

LEARNED_WIDTH = 256
"""Width of label vectors that are learned."""

UNTIL = 0.75
"""Part of a graph turn after which the adjacency stands still, and the embeddings adapt to the Boolean map."""

WIDTH = 64
"""Width of the graph up to which it learns as fast as the network; wider ones learn slower in proportion."""


class _StageOptions(Protocol):
    """The options that decide which stages there are."""

    learn: Literal["graph", "nodes"]
    turn: int | None
    init: Start | TaxonomySource
    ohem: float | None


class AutoUniSeg(PixelMethod):
    """Scores are dot products of pixels and unified nodes; classes of a dataset are read through a Boolean map.

    `learn` says what is learned. "graph": the label graph gives nodes and map, in turns of `turn` steps with the
    network, each frozen while the other learns. "nodes": the map stands, nodes and network are free.

    The label space starts from `init`, see `start.starting_taxonomy`; a table may be given instead. `tau`, `pair_cost`
    and `reward` are the merge programme's. With a table, `statistics` of a model that has it unlink what it hardly uses
    (`usage`, a share of a class's pixels), and nodes of which more than the share `absent` of the pixels has no label
    in the dataset.

    Scores: `combine` "sum" adds up the scores of a class's nodes (equation 5), "lse" their exponentials. `normalise`
    takes the direction of a pixel's embedding only, and `scale` multiplies scores.

    Graph: label vectors are texts by `encoder`, "learned", or a file (`features`), with the cards' `descriptions`, and
    `centre`d; `dataset_embedding`, `hidden`, `dropout`, `saturated` and `null_row` are `LabelGraph`'s. Where the stage
    before has heads, nodes start at them (`warm`). The graph learns at `graph_lr` times the learning rate (None: 1, and
    less for widths above 64), its adjacency at `edge_lr` times, once the part `settle` of a turn is over: before the
    embeddings mean anything it would learn no more than how frequent classes are. `orthogonality` weighs equation 7;
    `orthonormal` compares directions of nodes only. `rounding`, `prune` and `reg_m` are `Rounding`'s; maps are rounded
    every `remap` steps (None: a tenth of a turn, but 100 at most).
    """

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        *,
        learn: Literal["graph", "nodes"] = "graph",
        turn: int | None = None,
        init: Start | TaxonomySource = "confusion",
        statistics: StatisticsSource | None = None,
        tau: float = 0.4,
        pair_cost: float = 0.4,
        reward: float = 0.5,
        usage: float = 0.01,
        absent: float = 0.5,
        combine: Literal["sum", "lse"] = "sum",
        normalise: bool = False,
        scale: float = 1.0,
        warm: bool = True,
        features: Literal["text", "learned"] | Path = "text",
        encoder: str | None = None,
        descriptions: bool = True,
        centre: bool = True,
        dataset_embedding: bool = False,
        hidden: int = 2048,
        dropout: float = 0.1,
        saturated: bool = False,
        null_row: bool = False,
        graph_lr: float | None = None,
        edge_lr: float = 10.0,
        settle: float = 0.25,
        orthogonality: float = 10.0,
        orthonormal: bool = True,
        rounding: Literal["uot", "exact"] = "uot",
        prune: Literal["mass", "share"] = "share",
        reg_m: float = 5.0,
        remap: int | None = None,
        ohem: float | None = None,
    ) -> None:
        super().__init__(pixel_encoder, spaces, ohem)
        known = None if statistics is None else resolve_statistics(statistics)
        begin = starting_taxonomy(self.spaces, init, known, encoder, tau=tau, pair_cost=pair_cost, reward=reward)
        self._kept = list(range(len(begin.unified)))
        if not isinstance(init, str) and known is not None:
            begin, self._kept = pruned(begin, known, usage, absent)
        self._taxonomy: Taxonomy | None = begin if learn == "nodes" else None
        # A person's names of nodes stay; others follow from the classes that the nodes have.
        self._names = None if isinstance(init, str) else begin.unified.names
        self._start = links(begin)
        self.warm = warm
        self.combine, self.normalise, self.scale = combine, normalise, scale
        self.graph_lr, self.edge_lr, self.settle = graph_lr or min(1.0, WIDTH / hidden), edge_lr, settle
        self.orthogonality, self.orthonormal = orthogonality, orthonormal
        self.graph: LabelGraph | None = None
        nodes = torch.randn(len(begin.unified), pixel_encoder.channels) / math.sqrt(pixel_encoder.channels)
        if learn == "nodes":
            self.nodes: Tensor = nn.Parameter(nodes)
            return
        # X as the graph gives it: what the stage after this one starts from.
        self.register_buffer("nodes", nodes)
        self.register_state_dict_pre_hook(_export)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]
        sizes = [len(s) for s in self.spaces]
        labels = label_features(self.spaces, features, encoder, descriptions, centre) if features != "learned" else None
        self.graph = LabelGraph(
            sizes,
            torch.from_numpy(self._start),
            LEARNED_WIDTH if labels is None else torch.from_numpy(labels),
            pixel_encoder.channels,
            hidden=hidden,
            dropout=dropout,
            dataset_embedding=dataset_embedding,
            saturated=saturated,
            null_row=null_row,
        )
        self.rounding = Rounding(sizes, self._start, method=rounding, prune=prune, reg_m=reg_m)
        self.turn = turn or 20_000
        self.remap = remap or max(1, min(100, self.turn // 10))
        self._rows = JointClasses(tuple(self.spaces)).rows
        self._network: list[nn.Parameter] | None = None
        self._learning, self._rho = True, 0.0
        self._pass: Graph | None = None
        self._exported: Tensor | None = None
        self._alive: Tensor | None = None

    # The label space.

    @property
    def taxonomy(self) -> Taxonomy:
        """The Boolean map as it stands, without the nodes that it gives no class (section 3.2)."""
        if self._taxonomy is None:
            self._taxonomy = named(self.spaces, self.rounding.maps.cpu().numpy(), self._names)
        return self._taxonomy

    def _live(self, nodes: Float[Tensor, "N C"]) -> Float[Tensor, "U C"]:
        """Return the embeddings of the nodes that have a class, in the taxonomy's order."""
        if self._alive is None or self._alive.device != nodes.device:
            self._alive = self.rounding.maps.any(0).nonzero().flatten()
        return nodes[self._alive]

    def _fixed(self) -> Float[Tensor, "U C"]:
        """Return the taxonomy's nodes as they stand while the graph does not learn."""
        return self.nodes if self.graph is None else self._live(self._embeddings())

    @torch.no_grad()
    def _embeddings(self) -> Float[Tensor, "U C"]:
        """Return X of the graph as it stands, computed once until a step or a state changes the graph."""
        assert self.graph is not None
        if self._exported is None or self._exported.device != self.nodes.device:
            mode = self.graph.training
            self.graph.eval()
            self._exported = self.graph().nodes
            self.graph.train(mode)
        return self._exported

    def inherit(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Start nodes from the mean of the heads of their classes (`warm`), or free nodes from the graph's.

        Of the graph's nodes the inactive and the pruned ones are left out; its own last layer is fitted to the heads.
        """
        out = dict(weights)
        heads, nodes, maps = (out.get(k) for k in ("head.weight", "nodes", "rounding.maps"))
        if heads is not None and self.warm:
            share = torch.from_numpy(self._start).to(heads)
            if len(heads) == len(share):
                targets = share.T @ heads.flatten(1) / (self.scale * share.sum(0)[:, None])
                if self.graph is None:
                    out["nodes"] = targets
                else:
                    out["graph.outward.weight"], out["graph.outward.bias"] = self.graph.fitted(targets)
        elif nodes is not None and self.graph is None:
            alive = nodes if maps is None else nodes[maps.any(0)]
            if len(alive) > max(self._kept):
                out["nodes"] = alive[self._kept]
        return out

    # Scores.

    def unified(self, embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B U h w"]:
        """Return the nodes' scores (equation 4)."""
        return self._dot(self._fixed(), embedding)

    def relate(self, unified: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
        """Read an unseen dataset's classes: where scores are summed in training, through the best node of each.

        Of sums only those can be compared that were trained against each other; the authors too map the best node.
        """
        return losses.class_max(unified, index) if self.combine == "sum" else losses.class_logsumexp(unified, index)

    def dataset_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B D h w"]:
        """Return the scores of a training dataset's classes through the Boolean map (equation 5)."""
        return self._mapped(self._fixed(), embedding, self.relation_index(space))

    def train_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B A h w"]:
        """Return the classes' scores; in a graph turn through the soft map, the Boolean one, or both, in this order.

        Only the soft map has a gradient (section 3.2: "we directly use the value of the learnable adjacency").
        """
        if not self._learning_graph:
            return self.dataset_scores(embedding, space)
        graph = self._graph_pass()
        out = []
        if self._rho < 1:
            out.append(self._soft(graph.nodes, graph.shares[self._rows[space.name]], embedding))
        if self._rho > 0:
            out.append(self._mapped(self._live(graph.nodes), embedding, self.relation_index(space)))
        return torch.cat(out, 1)

    def pixel_loss(self, scores: Float[Tensor, "B A h w"], batch: Batch) -> Float[Tensor, ""]:
        """Return the cross entropy; between soft and Boolean map, both, weighed by how far the annealing is."""
        labels, parts = dense_labels(batch), torch.split(scores, len(batch.space), 1)
        weights = (1.0,) if len(parts) == 1 else (1 - self._rho, self._rho)
        terms = [w * losses.cross_entropy(p, labels, ohem=self.ohem) for w, p in zip(weights, parts, strict=True)]
        return torch.stack(terms).sum()

    def shared_loss(self) -> dict[str, Float[Tensor, ""]]:
        """Return the orthogonality loss of the graph's nodes, times its weight."""
        if not self._learning_graph:
            return {}
        nodes = self._graph_pass().nodes
        # The last term of a step: the next one passes the graph anew.
        self._pass = None
        return {"orthogonality": self.orthogonality * orthogonality(nodes, self.orthonormal)}

    def _dot(self, nodes: Float[Tensor, "N C"], embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B N h w"]:
        if self.normalise:
            embedding = F.normalize(embedding, dim=1)
        return F.conv2d(embedding, (self.scale * nodes)[:, :, None, None])

    def _mapped(
        self, nodes: Float[Tensor, "U C"], embedding: Float[Tensor, "B C h w"], index: RelationIndex
    ) -> Float[Tensor, "B D h w"]:
        if self.combine == "lse":
            return losses.class_logsumexp(self._dot(nodes, embedding), index)
        return self._dot(index.matrix.to(nodes.dtype) @ nodes, embedding)

    def _soft(
        self, nodes: Float[Tensor, "U C"], shares: Float[Tensor, "D U"], embedding: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B D h w"]:
        if self.combine == "sum":
            return self._dot(shares @ nodes, embedding)
        unified = self._dot(nodes, embedding).float()
        top = unified.detach().amax(1, keepdim=True)
        total = F.conv2d((unified - top).exp(), shares[:, :, None, None])
        return top + total.clamp(min=torch.finfo(total.dtype).tiny).log()

    # The turns of the graph stage.

    @property
    def _learning_graph(self) -> bool:
        return self.graph is not None and self._learning

    def _graph_pass(self) -> Graph:
        """Return the graph's output for this step: all datasets share one pass."""
        assert self.graph is not None
        if self._pass is None:
            self._pass = self.graph()
        return self._pass

    def on_step(self, step: int) -> None:
        """Take turns: freeze graph or network, anneal from the soft to the Boolean map, and round it when it is time.

        What is frozen asks for no gradient and gets none, not zero: neither momentum nor decay moves it.
        """
        if self.graph is None:
            return
        turn, at = divmod(step, self.turn)
        since, until = int(self.settle * self.turn), int(UNTIL * self.turn)
        self._learning, edges = turn % 2 == 0, since <= at < until
        self._freeze(self._learning, edges)
        if not self._learning:
            return
        self._exported = self._pass = None
        self._rho = min(at / until, 1.0) if until else 1.0
        if at == until or (edges and at % self.remap == 0):
            self.rounding.update(self.graph.shares().detach())
            self._taxonomy = self._alive = None

    def _freeze(self, network: bool, edges: bool) -> None:
        """Freeze the network, its norms' statistics too, and let the graph learn, or the other way round."""
        assert self.graph is not None
        if self._network is None:
            # Taken once: parts that the trainer keeps fixed stay so.
            self._network = [p for p in self.pixel_encoder.parameters() if p.requires_grad]
        for p in self._network:
            p.requires_grad_(not network)
        for p in self.graph.parameters():
            p.requires_grad_(network)
        for p in self.graph.edges():
            p.requires_grad_(network and edges)
        if self.pixel_encoder.training == network:
            self.pixel_encoder.train(not network)

    def lr_factor(self, name: str) -> float:
        """Return `edge_lr` for the adjacency, `graph_lr` for the rest of the graph, 1 for the network."""
        if not name.startswith("graph."):
            return 1.0
        return self.edge_lr if name in ("graph.adjacency", "graph.none") else self.graph_lr

    # Stages.

    @classmethod
    def default_stages(cls, options: _StageOptions, train: Schedule) -> list[StagePlan]:
        """Divide the steps: two fifths for heads, one for the graph in five turns, two for free nodes.

        In the middle of the last part nodes are pruned by usage, and the learning rate goes on. With `learn = "nodes"`
        there is no graph, nothing to prune, and its steps are those of the nodes. Warm-ups are divided as steps are.
        """
        total = train.steps
        if total < 4:
            raise UserError(f"train.steps is {total}; autouniseg needs 4 at least, one for each of its stages")
        # Every stage has a step at least: the first may not take those of the three after it.
        ends = [min(max(k + 1, round(total * part)), total - 3 + k) for k, part in enumerate((0.4, 0.6, 0.8))]
        heads, graph, nodes, last = (b - a for a, b in zip([0, *ends], [*ends, total], strict=True))

        def plan(name: str, steps: int, own: dict[str, Any], **schedule: int) -> StagePlan:
            whole = steps + sum(schedule.values())
            warmup = round(train.warmup * whole / total)
            return StagePlan(name=name, steps=steps, method=own, train={"warmup": warmup} | schedule)

        own = {} if options.ohem is None else {"ohem": options.ohem}
        start = {"statistics": StageStatistics("heads")} if options.init in ("confusion", "both") else {}
        first = plan("heads", heads, {"name": "multihead"} | own)
        if options.learn == "nodes":
            return [first, plan("nodes", total - heads, {"learn": "nodes"} | start)]
        turn = {} if options.turn else {"turn": -(-graph // TURNS)}
        free = {"learn": "nodes", "init": StageTaxonomy("graph")}
        pruned = {"learn": "nodes", "init": StageTaxonomy("nodes"), "statistics": StageStatistics("nodes")}
        return [
            first,
            plan("graph", graph, {"learn": "graph"} | turn | start),
            plan("nodes", nodes, free, after=last),
            plan("pruned", last, pruned, before=nodes),
        ]


def _export(method: AutoUniSeg, *_: object) -> None:
    method.nodes.copy_(method._embeddings())


def _forget(method: AutoUniSeg, *_: object) -> None:
    """Drop what follows from the state, after another one was loaded."""
    method._taxonomy = method._exported = method._alive = method._pass = None
