"""HTSS: a tree of softmaxes over one hierarchy of concepts, trained with masks, boxes and tags together.

Meletis and Dubbelman, "Training of Convolutional Networks on Multiple Heterogeneous Datasets for Street Scene Semantic
Segmentation" (IV 2018, arXiv 1803.05675), "On Boosting Semantic Street Scene Segmentation with Weak Supervision"
(IV 2019, arXiv 1903.03462) and "Training Semantic Segmentation on Heterogeneous Datasets" (arXiv 2301.07634).

Every inner concept of the hierarchy has a classifier of its children, which is trained on pixels of that concept alone.
A dense label of a class within the concept says that its pixel is of the concept. Boxes and tags do not say so, nor do
classes that have nodes outside of the concept too: their pixels count where the parent's classifier itself predicts the
concept (the gate).

Axes: B images, D classes of one dataset, U unified nodes, N concepts but the root, A channels, K children of a concept,
C channels of the embedding, h w feature resolution, H W native size.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg import losses
from manyseg.data.annotation import Boxes, Dense, Segments, Tags
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import IGNORE, LabelSpace, Taxonomy
from manyseg.labels.hierarchy import Hierarchy
from manyseg.losses import MeanLoss, RelationIndex
from manyseg.methods.base import dense_labels
from manyseg.methods.continuation import Label, LabelRows, layer_rows, node_labels
from manyseg.methods.pixel import PixelMethod
from manyseg.methods.softmax_tree import Classifier, ClassifierTargets, classifiers_of, paths_to_leaves
from manyseg.methods.sources import PROPOSAL, TaxonomySource, resolve_taxonomy
from manyseg.models import PixelEncoder

__all__ = ["HTSS"]

MIN_WEIGHT = 0.01
"""Weak pixels train a classifier where the summed weight of its children is larger than this (IV 2019)."""

Gate = Literal["parent", "chain", "none"]
WeakLoss = Literal["soft_ce", "set_nll"]
Void = Literal["ignore", "class"]
Divisor = Literal["classifier", "pixel"]
Decode = Literal["descend", "leaf"]


class HTSS(PixelMethod):
    """One classifier for each inner concept of a taxonomy's hierarchy; a leaf's probability is the product down to it.

    `taxonomy` is a table, as a file or in memory. "proposal" is what `manyseg labels` proposes by text; "names" unites
    equal names, which gives a flat tree and needs no text encoder.

    The losses of classifiers below the root are multiplied by `deeper_weight`. `gate = "parent"` lets a pixel of boxes
    or tags count where the parent's classifier predicts the concept, as the authors do, "chain" where all ancestors do;
    with both the root learns nothing from boxes and tags. "none" counts every such pixel, at the root too.
    `weak_loss = "soft_ce"` takes the shares of covering boxes as probabilities, "set_nll" only as possible classes.
    `void = "class"` gives classifiers below the root one more output, for pixels of boxes of other concepts.

    `divisor = "classifier"` averages each classifier's loss over the pixels that train it, "pixel" over all labelled
    pixels: with `deeper_weight = 1` that is the NLL of the leaves. `decode` is for predictions in the unified labels:
    "descend" follows the best child from the root, "leaf" takes the most probable leaf. `adapt` gives each classifier a
    residual bottleneck on the embedding. `ohem` applies to dense labels.
    """

    accepts = (Dense, Segments, Boxes, Tags)

    renamed: ClassVar[Mapping[str, str]] = {"mean": "divisor"}

    paths: Tensor

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        *,
        taxonomy: Literal["names"] | TaxonomySource = PROPOSAL,
        deeper_weight: float = 0.1,
        gate: Gate = "parent",
        weak_loss: WeakLoss = "soft_ce",
        void: Void = "ignore",
        divisor: Divisor = "classifier",
        decode: Decode = "descend",
        adapt: bool = False,
        ohem: float | None = None,
    ) -> None:
        super().__init__(pixel_encoder, spaces, ohem)
        _check_option("gate", gate, Gate)
        _check_option("weak_loss", weak_loss, WeakLoss)
        _check_option("void", void, Void)
        _check_option("divisor", divisor, Divisor)
        _check_option("decode", decode, Decode)
        if not deeper_weight > 0:
            raise UserError(f"method.deeper_weight is {deeper_weight}; give a positive number, 0.1 is usual")
        self._taxonomy = (
            Taxonomy.by_name(self.spaces) if taxonomy == "names" else resolve_taxonomy(taxonomy, self.spaces)
        )
        self._hierarchy = Hierarchy.of(self._taxonomy)
        self.gate, self.weak_loss, self.void, self.divisor, self.decode = gate, weak_loss, void, divisor, decode
        self.classifiers = classifiers_of(self.hierarchy, void == "class", deeper_weight)
        channels = pixel_encoder.channels
        self.head = nn.Conv2d(channels, self.classifiers[-1].channels.stop, 1)
        self.adapters = nn.ModuleList(_Adapter(channels) for _ in self.classifiers) if adapt else None
        self._order = [n for c in self.classifiers for n in self.hierarchy.children(c.concept)]
        self.register_buffer("paths", paths_to_leaves(self.hierarchy, self._order), persistent=False)
        self._targets: dict[tuple[str, torch.device], list[ClassifierTargets]] = {}
        self._concept_index: dict[torch.device, RelationIndex] = {}
        self._warned: set[str] = set()

    @property
    def taxonomy(self) -> Taxonomy:
        """The taxonomy that the model was built with."""
        return self._taxonomy

    @property
    def hierarchy(self) -> Hierarchy:
        """The tree that follows from the taxonomy."""
        return self._hierarchy

    def label_rows(self) -> Sequence[LabelRows]:
        """Return the rows of all classifiers, one a concept that is a child of another, and what adapters hold."""
        concepts = self._concept_labels()
        labels = []
        for c in self.classifiers:
            labels += [concepts[n] for n in self.hierarchy.children(c.concept)]
            labels += [Label(f"none of {concepts[c.concept].name}")] * c.void
        out = layer_rows("concepts", labels, self.head)
        if self.adapters is not None:
            inner = [concepts[c.concept] for c in self.classifiers]
            parts = zip(*(dict(adapter.named_parameters()).items() for adapter in self.adapters), strict=True)
            out += [LabelRows("adapters", part[0][0], inner, [p for _, p in part]) for part in parts]
        return out

    def _concept_labels(self) -> list[Label]:
        """Return all concepts as labels, and the root: a class means exactly the concept that has its nodes."""
        nodes, labels = len(self._taxonomy.unified), node_labels(self._taxonomy)
        relation, keys = self._taxonomy.joint_relation, self._taxonomy.classes.keys
        for name, leaves in zip(self.hierarchy.space.names[nodes:], self.hierarchy.leaves[nodes:], strict=True):
            exact = frozenset(keys[i] for i in (relation == leaves).all(1).nonzero()[0])
            labels.append(Label(name, exact, exact))
        return [*labels, Label("everything")]

    # Scores.

    def train_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B A h w"]:
        """Return the logits of all classifiers side by side."""
        assert self.head.bias is not None
        if self.adapters is None:
            scores: Tensor = self.head(embedding)
            return scores
        weight, bias = self.head.weight, self.head.bias
        parts = [
            F.conv2d(adapter(embedding), weight[c.channels], bias[c.channels])
            for c, adapter in zip(self.classifiers, self.adapters, strict=True)
        ]
        return torch.cat(parts, 1)

    def unified(self, embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B U h w"]:
        """Return the log-probabilities of the leaves: sums over the concepts on the path from the root to each leaf."""
        scores = self.train_scores(embedding, self._taxonomy.unified).float()
        steps = [scores[:, c.channels].log_softmax(1)[:, : c.children] for c in self.classifiers]
        return self._sum_over_paths(steps)

    def relate(self, unified: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
        """Return the log of the summed probability of each class's leaves; for the unified labels, as `decode` says.

        "descend" scores a leaf by the sum, over its path from the root, of how much less log-probability each concept
        has than the best of its siblings. The sum is 0 only for the leaf that is found by following the best child.
        """
        if self.decode == "leaf" or index is not self.relation_index(self._taxonomy.unified):
            return losses.class_logsumexp(unified, index)
        if unified.device not in self._concept_index:
            leaves = torch.from_numpy(self.hierarchy.leaves[self._order])
            self._concept_index[unified.device] = RelationIndex.of(leaves, unified.device)
        concepts = losses.class_logsumexp(unified, self._concept_index[unified.device])
        siblings = torch.split(concepts, [c.children for c in self.classifiers], 1)
        return self._sum_over_paths([s - s.amax(1, keepdim=True) for s in siblings])

    def _sum_over_paths(self, steps: Sequence[Float[Tensor, "B _ h w"]]) -> Float[Tensor, "B U h w"]:
        # Sums of a few selected channels, not a product with a 0/1 matrix: exact also where products are in TF32.
        nothing = torch.zeros_like(steps[0][:, :1])
        concepts = torch.cat([*steps, nothing], 1)
        return torch.stack([concepts.index_select(1, level) for level in self.paths]).sum(0)

    # Losses.

    def pixel_loss(self, scores: Float[Tensor, "B A h w"], batch: Batch) -> MeanLoss:
        """Return the weighted sum of the losses of all classifiers that the dataset's labels can train."""
        # This empty sum has a graph even if there is no such classifier.
        loss = MeanLoss.of(scores[:, :0].sum(), 1.0)
        targets = self._classifier_targets(batch.space)
        if isinstance(batch.annotation, Boxes | Tags):
            q = batch.annotation.soft(len(batch.space), (scores.shape[-2], scores.shape[-1]))
            targets = [t for t in targets if self.gate == "none" or t.classifier.parent is not None]
            if not targets:
                self._warn_of_no_classifier(batch.space)
            parts = [self._weak_loss(scores, q, t) for t in targets]
        else:
            labels = dense_labels(batch)
            parts = [self._dense_loss(scores, labels, t) for t in targets]
        # With train.mean = "batch" a classifier has one mean over the pixels of all datasets, masks and boxes alike.
        for target, part in zip(targets, parts, strict=True):
            loss += part.named(f"concept{target.classifier.concept}") * target.classifier.weight
        return loss

    def _dense_loss(
        self, scores: Float[Tensor, "B A h w"], labels: Int[Tensor, "B H W"], targets: ClassifierTargets
    ) -> MeanLoss:
        """Return minus the mean log of the summed probability of the children that each pixel's label may be."""
        rows, valid = labels.clamp(min=0).long(), labels != IGNORE
        counts = valid & (targets.allowed[:, 0] != IGNORE)[rows]
        if targets.gated:
            passed = self._gate_passes(scores, targets.classifier)[:, None].float()
            passed = F.interpolate(passed, size=labels.shape[1:], mode="nearest")[:, 0] > 0
            counts &= passed | ~targets.partly_inside[rows]
        own_labels = torch.where(counts, labels, IGNORE)
        own_scores = scores[:, targets.classifier.channels]
        loss = losses.cross_entropy(own_scores, own_labels, allowed=targets.allowed, ohem=self.ohem)
        return loss if self.divisor == "classifier" else loss.over(valid.sum())

    def _weak_loss(
        self, scores: Float[Tensor, "B A h w"], q: Float[Tensor, "B D h w"], targets: ClassifierTargets
    ) -> MeanLoss:
        """Return the loss of soft labels on the cells that have some for this classifier and pass the gate."""
        soft = torch.einsum("bdhw,dk->bkhw", q, targets.shares)
        counts = soft.sum(1) > MIN_WEIGHT
        if self.gate != "none":
            counts &= self._gate_passes(scores, targets.classifier)
        if targets.classifier.void:
            void = torch.einsum("bdhw,d->bhw", q, targets.outside) + (1 - q.sum(1)).clamp(min=0)
            soft = torch.cat([soft, void[:, None]], 1)
        soft = soft / soft.sum(1, keepdim=True).clamp(min=MIN_WEIGHT) * counts[:, None]
        loss = (losses.soft_cross_entropy if self.weak_loss == "soft_ce" else losses.set_nll)(
            scores[:, targets.classifier.channels], soft
        )
        return loss if self.divisor == "classifier" else loss.over((q > 0).any(1).sum())

    def _gate_passes(self, scores: Float[Tensor, "B A h w"], classifier: Classifier) -> Bool[Tensor, "B h w"]:
        """Return where the parent's classifier, and with "chain" those above it, predict the classifier's concept."""
        if classifier.parent is None:
            return torch.ones_like(scores[:, 0], dtype=torch.bool)
        parent = self.classifiers[classifier.parent]
        predicted = scores[:, parent.channels].detach().argmax(1) == classifier.position
        return predicted & self._gate_passes(scores, parent) if self.gate == "chain" else predicted

    def _classifier_targets(self, space: LabelSpace) -> list[ClassifierTargets]:
        """List what a dataset's labels mean to the classifiers that they can train.

        Built once for each dataset, so that a training step copies nothing to the device.
        """
        device = self.device
        key = (space.name, device)
        if key not in self._targets:
            found = [ClassifierTargets.of(self.hierarchy, c, space, device) for c in self.classifiers]
            self._targets[key] = [targets for targets in found if targets is not None]
        return self._targets[key]

    def _warn_of_no_classifier(self, space: LabelSpace) -> None:
        if space.name not in self._warned:
            self._warned.add(space.name)
            warnings.warn(
                f"the boxes or tags of '{space.name}' reach no classifier: it tells no children of an inner concept "
                "apart, and the root learns from masks alone; give the taxonomy a class that holds several of its "
                "classes, or set method.gate to 'none'",
                stacklevel=3,
            )


class _Adapter(nn.Module):
    """A residual bottleneck between the shared embedding and one classifier (IV 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(channels // 4, 1)
        self.body = nn.Sequential(
            nn.Conv2d(channels, narrow, 1),
            nn.ReLU(),
            nn.Conv2d(narrow, narrow, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(narrow, channels, 1),
        )

    def forward(self, embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Add the bottleneck's output to its input."""
        out: Tensor = embedding + self.body(embedding)
        return out


def _check_option(name: str, value: str, options: object) -> None:
    known = get_args(options)
    if value not in known:
        raise UserError(f"method.{name} is '{value}'; choose {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")
