"""Gradient conflicts: the share of classes and batches on which the gradients of two datasets oppose each other.

UniSeg (Kim et al., ECCV 2022) shows it in Figure 1. Several losses are compared at the same weights.

Axes: B images, U unified nodes, C channels of the classifier, D classes of one dataset, T steps, N nodes of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manyseg import losses
from manyseg.data.annotation import Dense, Segments
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import Taxonomy
from manyseg.losses import BinaryTargets
from manyseg.methods.base import Method, NameClassifier, dense_labels

__all__ = ["LOSSES", "Conflict", "conflicts_markdown", "measure_conflicts"]


@dataclass(frozen=True)
class Conflict:
    """How often the gradients of two datasets, `a` and `b`, oppose each other at the classifier under one loss.

    Two gradients oppose where their inner product is negative; a gradient of 0 opposes nothing.
    """

    loss: str
    a: str
    b: str
    nodes: tuple[str, ...] = field(repr=False)
    """The unified nodes that a or b labels."""
    opposed: Bool[np.ndarray, "T N"] = field(repr=False)
    """By step and node, at the node's weights."""
    whole: Bool[np.ndarray, " T"] = field(repr=False)
    """By step, at the weights of all nodes together."""

    @property
    def share(self) -> float:
        """Share of all (node, step) on which the gradients oppose."""
        return float(self.opposed.mean())

    @property
    def classes(self) -> float:
        """Share of the nodes that oppose in more than half of the steps."""
        return float((self.opposed.mean(0) > 0.5).mean())

    @property
    def batches(self) -> float:
        """Share of the steps in which the gradients of the whole classifier oppose."""
        return float(self.whole.mean())

    def worst(self, count: int) -> list[tuple[str, float]]:
        """Return the nodes that oppose most often, with the share of steps in which they do."""
        often = self.opposed.mean(0)
        order = np.argsort(-often, kind="stable")[:count]
        return [(self.nodes[i], float(often[i])) for i in order if often[i] > 0]


def measure_conflicts(method: Method, steps: Iterable[Sequence[Batch]]) -> list[Conflict]:
    """Compare in every step the gradients of each two datasets at the classifier's weights, under each of `LOSSES`.

    `method` is trained and has a `name_classifier`, so that its datasets share a node for every name (`uniseg`,
    `union`); it is used in eval mode and not changed. A step has one batch of each dataset, of masks or segments; steps
    without one of two datasets do not count for that pair. Raises UserError for other methods, for boxes and tags, and
    where no step has two datasets.
    """
    classifier = method.name_classifier
    if classifier is None:
        raise UserError(
            f"{type(method).__name__} has no classifier that datasets share by names; measure conflicts on a run of "
            "uniseg or union"
        )
    training = method.training
    method.eval()
    found: dict[tuple[str, str, str], list[tuple[np.ndarray, bool]]] = {}
    for step in steps:
        gradients = {batch.space.name: _gradients(method, classifier, batch) for batch in step}
        for (a, of_a), (b, of_b) in combinations(gradients.items(), 2):
            for loss in LOSSES:
                inner = (of_a[loss] * of_b[loss]).sum(1)
                found.setdefault((loss, a, b), []).append(((inner < 0).cpu().numpy(), bool(inner.sum() < 0)))
    method.train(training)
    if not found:
        raise UserError("no step had batches of two datasets; measure a run of several")
    return [_conflict(method.taxonomy, *key, rows) for key, rows in found.items()]


def conflicts_markdown(conflicts: Sequence[Conflict], worst: int = 3) -> str:
    """Render a table in per cent: a row for every pair and loss, with the nodes that oppose most often."""
    lines = [
        "| datasets | loss | classes and batches | classes | batches | most often |",
        "|---|---|---:|---:|---:|---|",
    ]
    for c in sorted(conflicts, key=lambda c: (c.a, c.b)):
        often = ", ".join(f"{name} {share:.0%}" for name, share in c.worst(worst))
        numbers = " | ".join(f"{100 * v:.1f}" for v in (c.share, c.classes, c.batches))
        lines.append(f"| {c.a}, {c.b} | {c.loss} | {numbers} | {often or '-'} |")
    return "\n".join(lines) + "\n"


def _conflict(
    taxonomy: Taxonomy, loss: str, a: str, b: str, rows: Sequence[tuple[Bool[np.ndarray, " U"], bool]]
) -> Conflict:
    either = np.flatnonzero(taxonomy.relations[a].any(0) | taxonomy.relations[b].any(0))
    names = tuple(taxonomy.unified.names[u] for u in either)
    opposed = np.stack([row for row, _ in rows])[:, either]
    return Conflict(loss, a, b, names, opposed, np.array([whole for _, whole in rows]))


def _gradients(method: Method, classifier: NameClassifier, batch: Batch) -> dict[str, Float[Tensor, "U C"]]:
    """Return the gradient at the classifier's weights for each loss, from one pass through the network."""
    if not isinstance(batch.annotation, Dense | Segments):
        raise UserError(
            f"'{batch.space.name}' is trained on without a label for each pixel; measure conflicts on a run of masks"
        )
    batch = batch.to(method.device)
    with torch.no_grad():
        embedding = method.pixel_encoder(batch.image).embedding
    scores = classifier.logits(embedding)
    relation = torch.tensor(method.taxonomy.relations[batch.space.name])
    out = {}
    for name, loss in LOSSES.items():
        value = loss(scores, dense_labels(batch), relation)
        (gradient,) = torch.autograd.grad(value, classifier.weight, retain_graph=True)
        out[name] = gradient.flatten(1).double()
    return out


PixelScores = Float[Tensor, "B U h w"]


def _union_ce(scores: PixelScores, labels: Tensor, relation: Bool[Tensor, "D U"]) -> Float[Tensor, ""]:
    # In a union of names every class has one node.
    allowed = relation.int().argmax(1, keepdim=True).to(scores.device)
    return losses.cross_entropy(scores, labels, allowed=allowed).mean()


def _plain_bce(scores: PixelScores, labels: Tensor, relation: Bool[Tensor, "D U"]) -> Float[Tensor, ""]:
    return losses.binary_cross_entropy(scores, labels, BinaryTargets.of(relation.long(), scores.device)).mean()


def _null_bce(scores: PixelScores, labels: Tensor, relation: Bool[Tensor, "D U"]) -> Float[Tensor, ""]:
    targets = BinaryTargets.of(losses.null_bce_targets(relation), scores.device)
    return losses.binary_cross_entropy(scores[:, targets.nodes], labels, targets).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "union CE": _union_ce,
    "plain BCE": _plain_bce,
    "null BCE": _null_bce,
}
"""The losses that are compared: functions of all nodes' logits, a dataset's labels, and its classes' relation."""
