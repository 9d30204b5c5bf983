"""The label graph network: label nodes and unified nodes, joined by a learnable bipartite adjacency (AutoUniSeg).

Source: Ma, Chen, Xue, Pu, "Automated Label Unification for Multi-Dataset Semantic Segmentation with GNNs" (NeurIPS
2024), section 3.2. It knows of no label: datasets are numbers of classes.

Axes: T classes of all datasets together, K datasets, U unified nodes, F features of a node, C channels of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["TEMPERATURE", "Graph", "LabelGraph", "means", "orthogonality"]

TEMPERATURE = 0.07
"""Divides the adjacency's logits (the authors' code; equation 2 shows none)."""

LINKED = 0.9
"""Share with which a linked class starts: at a share of 0.9999, where 0/1 logits begin, no gradient is left."""


RIDGE = 0.01
"""Penalty of the last layer's fit, as a part of the mean square of what it reads: small weights learn on steadily."""


class Graph(NamedTuple):
    """What a pass through the graph gives."""

    nodes: Float[Tensor, "U C"]
    """X, the embeddings of the unified nodes; not normalised."""
    shares: Float[Tensor, "T U"]
    """S: of every node, how much it belongs to each class; sums to 1 over a dataset."""


class LabelGraph(nn.Module):
    """Three GraphSAGE layers over a graph whose edges, from classes to unified nodes, are learned.

    `sizes` are the datasets' numbers of classes; `relation` says which class starts linked to which node.
    `labels` are the classes' features (of a text encoder, constant), or the width of features that are learned.
    `dataset_embedding` adds a learned vector a dataset to its classes' features (equation 1; left out in the authors'
    configurations). `saturated` starts from logits 0 and 1 as the authors do, at which linked columns never move.
    """

    datasets: Tensor

    def __init__(
        self,
        sizes: Sequence[int],
        relation: Bool[Tensor, "T U"],
        labels: Float[Tensor, "T F"] | int,
        channels: int,
        *,
        hidden: int = 2048,
        dropout: float = 0.5,
        dataset_embedding: bool = False,
        saturated: bool = False,
    ) -> None:
        super().__init__()
        T, U = relation.shape
        self.sizes = list(sizes)
        if isinstance(labels, int):
            self.labels: Tensor = nn.Parameter(_small(T, labels))
        else:
            self.register_buffer("labels", labels.clone())
        F = self.labels.shape[1]
        self.unified = nn.Parameter(_small(U, F))
        self.dataset = nn.Parameter(_small(len(sizes), F)) if dataset_embedding else None
        self.register_buffer(
            "datasets", torch.arange(len(sizes)).repeat_interleave(torch.tensor(self.sizes)), persistent=False
        )
        self.adjacency = nn.Parameter(
            torch.cat([_start(part, saturated) for part in torch.split(relation, self.sizes)])
        )
        self.inward = nn.Linear(F, hidden)
        self.layers = nn.ModuleList(nn.Linear(2 * hidden, hidden) for _ in range(3))
        for parameter in self.layers.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))
        self.outward = nn.Linear(hidden, channels)
        self.dropout = dropout

    def shares(self) -> Float[Tensor, "T U"]:
        """Return S: for every dataset, a softmax over its classes for every node (equation 2)."""
        return torch.cat([(part / TEMPERATURE).softmax(0) for part in torch.split(self.adjacency, self.sizes)])

    def forward(self, generator: torch.Generator | None = None) -> Graph:
        """Pass messages, and return the nodes' embeddings and shares. In float32, under autocast too.

        In training, dropout draws from `generator`, which is on the parameters' device.
        """
        with torch.autocast(self.adjacency.device.type, enabled=False):
            shares = self.shares()
            return Graph(self.outward(self._hidden(shares, generator)), shares)

    @torch.no_grad()
    def fitted(
        self, targets: Float[Tensor, "U C"], ridge: float = RIDGE
    ) -> tuple[Float[Tensor, "C H"], Float[Tensor, " C"]]:
        """Return the weight and bias of the last layer with which the nodes' embeddings are near `targets`.

        Ridge regression on what the layers before it give without dropout; they stay as they are. The smaller `ridge`,
        the nearer, and the larger the weights. Ours: a graph that starts at random needs thousands of steps to find
        embeddings that a trained classifier has.
        """
        mode = self.training
        hidden = self.eval()._hidden(self.shares()).double()
        self.train(mode)
        bias = targets.double().mean(0)
        gram = hidden @ hidden.T
        gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weight = torch.linalg.solve(gram, targets.double() - bias).T @ hidden
        return weight.to(targets.dtype), bias.to(targets.dtype)

    def _hidden(self, shares: Float[Tensor, "T U"], generator: torch.Generator | None = None) -> Float[Tensor, "U H"]:
        labels = self.labels if self.dataset is None else self.labels + self.dataset[self.datasets]
        nodes: Tensor
        classes, nodes = self.inward(labels).relu(), self.inward(self.unified).relu()
        for layer in self.layers:
            classes, nodes = self._drop(classes, generator), self._drop(nodes, generator)
            to_nodes = means(shares.T, classes)
            if layer is not self.layers[-1]:  # Of what comes out of the last one, nobody reads the classes.
                classes = layer(torch.cat([classes, means(shares, nodes)], 1)).tanh()
            nodes = layer(torch.cat([nodes, to_nodes], 1)).tanh()
        return nodes

    def _drop(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        # As torch's dropout, which takes no generator.
        if not self.training or not self.dropout:
            return x
        kept = torch.empty_like(x).bernoulli_(1 - self.dropout, generator=generator)
        return x * kept.div_(1 - self.dropout)


def means(shares: Float[Tensor, "N M"], others: Float[Tensor, "M H"]) -> Float[Tensor, "N H"]:
    """Return the messages to N vertices: the means of their M neighbours, weighted by the shares.

    With S to classes and with S^T to nodes. That is A H with A = [[0, S], [S^T, 0]] and its rows divided by their sums,
    without the (T + U)^2 matrix.
    """
    return (shares @ others) / shares.sum(1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)


def orthogonality(nodes: Float[Tensor, "U C"], normalise: bool = False) -> Float[Tensor, ""]:
    """Return the mean entropy of a node's softmax over its similarities with all nodes, divided by U (equation 7).

    The index in print is ambiguous, and no temperature is printed; this is the authors' code: similarities divided by
    0.07, the mean over all U^2 entries. Embeddings are not normalised unless asked: growing norms alone lower it.
    """
    if normalise:
        nodes = functional.normalize(nodes, dim=1)
    logp = (nodes @ nodes.T / TEMPERATURE).log_softmax(1)
    return -(logp.exp() * logp).mean()


def _small(rows: int, columns: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(rows, columns), std=0.02)


def _start(relation: Bool[Tensor, "D U"], saturated: bool) -> Float[Tensor, "D U"]:
    """Return a dataset's first logits."""
    height = 1.0 if saturated else TEMPERATURE * math.log(LINKED / (1 - LINKED) * max(len(relation) - 1, 1))
    return height * relation.float()
