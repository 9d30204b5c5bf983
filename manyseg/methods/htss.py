"""HTSS: a tree of softmaxes over one hierarchy of concepts, taught by masks, boxes and tags together.

Meletis and Dubbelman, "Training of Convolutional Networks on Multiple Heterogeneous Datasets for Street Scene Semantic
Segmentation" (IV 2018, arXiv 1803.05675), "On Boosting Semantic Street Scene Segmentation with Weak Supervision"
(IV 2019, arXiv 1903.03462) and "Training Semantic Segmentation on Heterogeneous Datasets" (arXiv 2301.07634).

Every inner concept of the hierarchy has a classifier of its children, which only learns from pixels of that concept. A
label says so by itself if it lies within the concept. Boxes and tags do not, nor does a split class, one that has nodes
elsewhere too: their pixels count where the parent's classifier itself decides for the concept (the gate).

Axes: B images, D classes of one dataset, U unified nodes, N concepts but the root, A channels, K children of a concept,
C channels of the embedding, h w feature resolution, H W native size.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
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
from manyseg.losses import RelationIndex
from manyseg.methods.base import PixelMethod, dense_labels
from manyseg.methods.sources import PROPOSAL, TaxonomySource, resolve_taxonomy
from manyseg.models import PixelEncoder

__all__ = ["HTSS"]

MASS = 0.01
"""Weak pixels count for a classifier where its children have more than this weight together (IV 2019)."""

Gate = Literal["parent", "chain", "none"]
WeakLoss = Literal["soft_ce", "set_nll"]
Void = Literal["ignore", "class"]
Mean = Literal["classifier", "pixel"]
Decode = Literal["descend", "leaf"]


class HTSS(PixelMethod):
    """One classifier for each inner concept of a taxonomy's hierarchy; a leaf's probability is the product down to it.

    `taxonomy` is a table, a file or in memory. "proposal" is what `manyseg labels` proposes by text; "names" unites
    equal names, which makes a flat tree and needs no text encoder. Classifiers below the root weigh `deeper_weight`.
    `gate = "parent"` asks the parent's decision alone, as the authors do, "chain" those of all ancestors; with both the
    root learns nothing from boxes and tags. "none" counts every weak pixel, at the root too. `weak_loss = "soft_ce"`
    takes the counts of covering boxes as probabilities, "set_nll" as what is possible, no more. `void = "class"` gives
    classifiers below the root one more output for weak pixels of none of the children.

    `mean = "classifier"` averages each classifier's loss over its own pixels, "pixel" over all labelled ones: with
    `deeper_weight = 1` that is the NLL of the leaves. `decode` is for predictions in the unified labels: "descend"
    follows the best child from the root, "leaf" takes the most probable leaf. `adapt` gives each classifier a residual
    bottleneck on the embedding. `ohem` applies to dense labels.
    """

    accepts = (Dense, Segments, Boxes, Tags)

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
        mean: Mean = "classifier",
        decode: Decode = "descend",
        adapt: bool = False,
        ohem: float | None = None,
    ) -> None:
        super().__init__(pixel_encoder, spaces, ohem)
        _check("gate", gate, Gate)
        _check("weak_loss", weak_loss, WeakLoss)
        _check("void", void, Void)
        _check("mean", mean, Mean)
        _check("decode", decode, Decode)
        if not deeper_weight > 0:
            raise UserError(f"method.deeper_weight is {deeper_weight}; give a positive number, 0.1 is usual")
        self._taxonomy = (
            Taxonomy.by_name(self.spaces) if taxonomy == "names" else resolve_taxonomy(taxonomy, self.spaces)
        )
        self._hierarchy = Hierarchy.of(self._taxonomy)
        self.gate, self.weak_loss, self.void, self.mean, self.decode = gate, weak_loss, void, mean, decode
        self.classifiers = _classifiers(self.hierarchy, void == "class", deeper_weight)
        channels = pixel_encoder.channels
        self.head = nn.Conv2d(channels, self.classifiers[-1].channels.stop, 1)
        self.adapters = nn.ModuleList(_Adapter(channels) for _ in self.classifiers) if adapt else None
        self._order = [n for c in self.classifiers for n in self.hierarchy.children(c.concept)]
        self.register_buffer("paths", _paths(self.hierarchy, self._order), persistent=False)
        self._lessons: dict[tuple[str, torch.device], list[_Lesson]] = {}
        self._levels: dict[torch.device, RelationIndex] = {}
        self._warned: set[str] = set()

    @property
    def taxonomy(self) -> Taxonomy:
        """The taxonomy that the model was built with."""
        return self._taxonomy

    @property
    def hierarchy(self) -> Hierarchy:
        """The tree that follows from the taxonomy."""
        return self._hierarchy

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
        """Return the log-probabilities of the leaves: the sum of those of the children on the way down."""
        scores = self.train_scores(embedding, self._taxonomy.unified).float()
        steps = [scores[:, c.channels].log_softmax(1)[:, : c.children] for c in self.classifiers]
        return self._down(steps)

    def relate(self, unified: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
        """Return the log of the summed probability of each class's leaves; for the unified labels, decode.

        To descend is to add up, on the way down, how far each concept lies behind the best one of its siblings: only
        the leaf that is found by taking the best child from the root on lies behind nowhere.
        """
        if self.decode == "leaf" or index is not self.relation_index(self._taxonomy.unified):
            return losses.class_logsumexp(unified, index)
        if unified.device not in self._levels:
            leaves = torch.from_numpy(self.hierarchy.leaves[self._order])
            self._levels[unified.device] = RelationIndex.of(leaves, unified.device)
        concepts = losses.class_logsumexp(unified, self._levels[unified.device])
        siblings = torch.split(concepts, [c.children for c in self.classifiers], 1)
        return self._down([s - s.amax(1, keepdim=True) for s in siblings])

    def _down(self, steps: Sequence[Float[Tensor, "B _ h w"]]) -> Float[Tensor, "B U h w"]:
        # Sums of a few looked-up channels, not a product with a 0/1 matrix: exact whatever precision products have.
        nothing = torch.zeros_like(steps[0][:, :1])
        concepts = torch.cat([*steps, nothing], 1)
        return torch.stack([concepts.index_select(1, level) for level in self.paths]).sum(0)

    # Losses.

    def pixel_loss(self, scores: Float[Tensor, "B A h w"], batch: Batch) -> Float[Tensor, ""]:
        """Return the weighted sum of the losses of all classifiers that the dataset can teach."""
        # The empty sum has a graph even if the dataset teaches nothing.
        parts = [scores[:, :0].sum()]
        if isinstance(batch.annotation, Boxes | Tags):
            q = batch.annotation.soft(len(batch.space), (scores.shape[-2], scores.shape[-1]))
            lessons = [t for t in self._taught(batch.space) if self.gate == "none" or t.by.parent is not None]
            if not lessons:
                self._warn(batch.space)
            parts += [lesson.by.weight * self._weak(scores, q, lesson) for lesson in lessons]
        else:
            labels = dense_labels(batch)
            parts += [lesson.by.weight * self._dense(scores, labels, lesson) for lesson in self._taught(batch.space)]
        return torch.stack(parts).sum()

    def _dense(self, scores: Tensor, labels: Int[Tensor, "B H W"], lesson: _Lesson) -> Float[Tensor, ""]:
        """Return minus the mean log of the summed probability of the children that each pixel's label may be."""
        rows, valid = labels.clamp(min=0).long(), labels != IGNORE
        told = valid & (lesson.allowed[:, 0] != IGNORE)[rows]
        if lesson.gated:
            agrees = self._agrees(scores, lesson.by)[:, None].float()
            agrees = F.interpolate(agrees, size=labels.shape[1:], mode="nearest")[:, 0] > 0
            told &= agrees | ~lesson.maybe[rows]
        local = torch.where(told, labels, IGNORE)
        part = scores[:, lesson.by.channels]
        loss = losses.cross_entropy(part, local, allowed=lesson.allowed, ohem=self.ohem)
        return loss if self.mean == "classifier" else loss * losses.supervised(told) / losses.supervised(valid)

    def _weak(self, scores: Tensor, q: Float[Tensor, "B D h w"], lesson: _Lesson) -> Float[Tensor, ""]:
        """Return the loss of soft labels, on the cells that have some for this classifier and pass the gate."""
        target = torch.einsum("bdhw,dk->bkhw", q, lesson.shares)
        told = target.sum(1) > MASS
        if self.gate != "none":
            told &= self._agrees(scores, lesson.by)
        if lesson.by.void:
            elsewhere = torch.einsum("bdhw,d->bhw", q, lesson.elsewhere) + (1 - q.sum(1)).clamp(min=0)
            target = torch.cat([target, elsewhere[:, None]], 1)
        target = target / target.sum(1, keepdim=True).clamp(min=MASS) * told[:, None]
        loss = (losses.soft_cross_entropy if self.weak_loss == "soft_ce" else losses.set_nll)(
            scores[:, lesson.by.channels], target
        )
        if self.mean == "classifier":
            return loss
        return loss * losses.supervised(told) / losses.supervised((q > 0).any(1))

    def _agrees(self, scores: Float[Tensor, "B A h w"], classifier: _Classifier) -> Bool[Tensor, "B h w"]:
        """Say where the parent's classifier, and with "chain" those above it, decide for the classifier's concept."""
        if classifier.parent is None:
            return torch.ones_like(scores[:, 0], dtype=torch.bool)
        parent = self.classifiers[classifier.parent]
        found = scores[:, parent.channels].detach().argmax(1) == classifier.position
        return found & self._agrees(scores, parent) if self.gate == "chain" else found

    def _taught(self, space: LabelSpace) -> list[_Lesson]:
        """List what a dataset can teach; built once, so that a step copies nothing to the device."""
        key = (space.name, self.device)
        if key not in self._lessons:
            found = [_Lesson.of(self.hierarchy, c, space, self.device) for c in self.classifiers]
            self._lessons[key] = [lesson for lesson in found if lesson is not None]
        return self._lessons[key]

    def _warn(self, space: LabelSpace) -> None:
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


class _Classifier(NamedTuple):
    """One softmax: its concept, its channels (one a child, in order, then void), and where its parent decides for it.

    `parent` is the position of the parent's classifier, None for the root; `position` this concept's channel there.
    """

    concept: int
    channels: slice
    children: int
    void: bool
    parent: int | None
    position: int
    weight: float


def _classifiers(hierarchy: Hierarchy, void: bool, deeper_weight: float) -> tuple[_Classifier, ...]:
    """Lay the classifiers' channels out, the root's first; it has no void, which nothing could ever teach there."""
    out: list[_Classifier] = []
    at: dict[int, int] = {}
    start = 0
    for concept in hierarchy.inner:
        children, below = len(hierarchy.children(concept)), concept != hierarchy.root
        stop = start + children + (void and below)
        parent = hierarchy.parents[concept] if below else None
        position = hierarchy.children(parent).index(concept) if parent is not None else 0
        place = at[parent] if parent is not None else None
        weight = deeper_weight if below else 1.0
        at[concept] = len(out)
        out.append(_Classifier(concept, slice(start, stop), children, void and below, place, position, weight))
        start = stop
    return tuple(out)


def _paths(hierarchy: Hierarchy, order: Sequence[int]) -> Int[Tensor, "L U"]:
    """List the positions, in `order`, of the concepts on the way down to every leaf; a short way ends one past all."""
    ways = [hierarchy.path(u) for u in range(len(hierarchy.taxonomy.unified))]
    out = torch.full((max(map(len, ways)), len(ways)), len(order))
    for u, way in enumerate(ways):
        out[: len(way), u] = torch.tensor([order.index(n) for n in way])
    return out


class _Lesson(NamedTuple):
    """What a dataset teaches one classifier."""

    by: _Classifier
    allowed: Int[Tensor, "D J"]
    """The channels that class d may be; the rest of its row is IGNORE, all of it where d says nothing."""
    maybe: Bool[Tensor, " D"]
    """The classes whose pixels count only where the parent decides for the concept."""
    gated: bool
    """Whether there are any such classes."""
    shares: Float[Tensor, "D K"]
    """The weight that a class's boxes and tags give each child; 0 where it says nothing."""
    elsewhere: Float[Tensor, " D"]
    """1 for classes that have no node within the concept."""

    @classmethod
    def of(
        cls, hierarchy: Hierarchy, classifier: _Classifier, space: LabelSpace, device: torch.device
    ) -> _Lesson | None:
        """Return None where the dataset tells no children apart."""
        choice = hierarchy.choice(space, classifier.concept)
        if not choice.teaches:
            return None
        told = choice.allowed & (choice.sure | choice.maybe)[:, None]
        order = np.argsort(~told, axis=1, kind="stable")[:, : told.sum(1).max()]
        allowed = np.where(np.take_along_axis(told, order, 1), order, IGNORE)
        shares = told / told.sum(1, keepdims=True).clip(min=1)
        return cls(
            classifier,
            torch.from_numpy(allowed).to(device),
            torch.from_numpy(choice.maybe).to(device),
            bool(choice.maybe.any()),
            torch.from_numpy(shares.astype(np.float32)).to(device),
            torch.from_numpy((~choice.allowed.any(1)).astype(np.float32)).to(device),
        )


def _check(name: str, value: str, words: object) -> None:
    known = get_args(words)
    if value not in known:
        raise UserError(f"method.{name} is '{value}'; choose {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")
