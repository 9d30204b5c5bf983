"""The baselines: a head for each dataset, the union of names, and a taxonomy made by hand.

All are one linear layer on the pixel embedding; they differ in the taxonomy and in who competes with a label.

How scores are upsampled is part of the method. The scores of the nodes become, at feature resolution, the log-sum-exp
of each class's nodes, and one more channel for the nodes of no class. These channels are upsampled, and the softmax is
taken at native size, as it is for a single dataset. Without upsampling this equals the loss of the papers. Upsampled
log-probabilities would be another loss: halfway between two certain pixels of different classes the probability of
either class would be almost 0.

Boxes and tags are partial labels: a pixel may be any class whose box covers it, or any of its image's tags, and the
loss is minus the log of their summed probability (set NLL). Pixels that no box covers have no loss.

Axes: B images, D classes of one dataset, U unified nodes, A channels that compete, K datasets, C channels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg import losses
from manyseg.data.annotation import Boxes, Dense, Segments, Tags
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.losses import MeanLoss, RelationIndex
from manyseg.methods.base import NameClassifier, dense_labels
from manyseg.methods.continuation import LabelRows, layer_rows, node_labels
from manyseg.methods.node_groups import GroupTargets, NodeGroups
from manyseg.methods.pixel import PixelMethod
from manyseg.methods.sources import TaxonomySource, resolve_taxonomy
from manyseg.models import PixelEncoder

__all__ = ["Manual", "MultiHead", "Union"]


class MultiHead(PixelMethod):
    """A head of its own for every dataset; with one dataset, the ordinary single model.

    Only the pixel embedding is shared, and no class competes with another dataset's. For a dataset only its own head is
    computed.

    The unified space is all heads' classes side by side, and every head's probabilities are divided by the number of
    heads. The probability of an unseen class is the mean over the heads that have a node for it: a head without a node
    for the class does not lower it.

    `normalise` takes the direction of a pixel's embedding only, `scale` multiplies scores, and without `bias` a class
    is a vector alone: so it is where heads are the first stage of AutoUniSeg with normalised pixels. `align_corners`
    puts corner cells on corner pixels where scores are upsampled, as AutoUniSeg's authors do.
    """

    accepts = (Dense, Segments, Boxes, Tags)

    heads: Tensor

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        *,
        bias: bool = True,
        normalise: bool = False,
        scale: float = 1.0,
        align_corners: bool = False,
        ohem: float | None = None,
    ) -> None:
        super().__init__(pixel_encoder, spaces, ohem)
        self.align_corners = align_corners
        if not scale > 0:
            raise UserError(f"method.scale is {scale}; it multiplies scores, 1 leaves them alone")
        self.normalise, self.scale = normalise, scale
        self._taxonomy = Taxonomy.disjoint(self.spaces)
        self.head = nn.Conv2d(pixel_encoder.channels, len(self._taxonomy.unified), 1, bias=bias)
        sizes = self._taxonomy.classes.sizes
        self._rows = self._taxonomy.classes.rows
        # Float[U, K], 1 where node u is of head k.
        self.register_buffer("heads", torch.eye(len(sizes)).repeat_interleave(torch.tensor(sizes), 0), persistent=False)

    @property
    def taxonomy(self) -> Taxonomy:
        """Every class of every dataset is a node of its own."""
        return self._taxonomy

    def label_rows(self) -> Sequence[LabelRows]:
        """Return the rows of all heads, one a class."""
        return layer_rows("heads", node_labels(self._taxonomy), self.head)

    def dataset_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B D h w"]:
        """Return the logits of the dataset's own head."""
        return self._logits(embedding, self._rows[space.name])

    def handover(self) -> dict[str, Tensor]:
        """Return the state, and with a scale what a pixel's scores are products with: the head's rows, times it."""
        scaled = {} if self.scale == 1 else {"classes": self.scale * self.head.weight.detach()}
        return {**self.state_dict(), **scaled}

    def pixel_loss(self, scores: Float[Tensor, "B D h w"], batch: Batch) -> MeanLoss:
        """Return the cross entropy of the own head, or the set NLL of boxes and tags."""
        if isinstance(batch.annotation, Boxes | Tags):
            return losses.set_nll(scores, batch.annotation.soft(len(batch.space), _size(scores)))
        return super().pixel_loss(scores, batch)

    def unified(self, embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B U h w"]:
        """Return all heads' log-probabilities side by side, less `log K`, so that they sum to 1."""
        heads = torch.split(self._logits(embedding, slice(None)).float(), list(self._taxonomy.classes.sizes), 1)
        return torch.cat([logits.log_softmax(1) for logits in heads], 1) - math.log(len(heads))

    def relate(self, unified: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
        """Return the log of the mean probability of each class over the heads that have a node for it."""
        nodes = self.heads.new_zeros(len(index.matrix), self.heads.shape[1])
        voters = (nodes.index_add(0, index.classes, self.heads[index.nodes]) > 0).sum(1).clamp(min=1)
        mean = losses.class_logsumexp(unified, index) - voters.log()[:, None, None]
        return mean + math.log(len(self.spaces))

    def _logits(self, embedding: Float[Tensor, "B C h w"], rows: slice) -> Float[Tensor, "B R h w"]:
        if self.normalise:
            embedding = F.normalize(embedding, dim=1)
        bias = None if self.head.bias is None else self.scale * self.head.bias[rows]
        return F.conv2d(embedding, self.scale * self.head.weight[rows], bias)


class _SharedSoftmax(PixelMethod):
    """One softmax over the nodes of a taxonomy.

    The loss is minus the log of the summed probability of the nodes that a label may be: NLL+ (Bevandic et al. 2022),
    which is cross entropy where that is a single node. Nodes of no class of the dataset compete too, so that they learn
    what is not theirs; `competitors = "own"` leaves them out. At test time the probability of a class is the sum of
    those of its nodes (MSeg).
    """

    accepts = (Dense, Segments, Boxes, Tags)

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        taxonomy: Taxonomy,
        competitors: Literal["all", "own"],
        ohem: float | None,
        ignored: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        super().__init__(pixel_encoder, spaces, ohem)
        if competitors not in ("all", "own"):
            raise UserError(f"method.competitors is '{competitors}'; choose 'all' or 'own'")
        self._taxonomy = taxonomy
        self.head = nn.Conv2d(pixel_encoder.channels, len(taxonomy.unified), 1)
        self._groups = {}
        for space in self.spaces:
            others = np.full(len(taxonomy.unified), competitors == "all")
            groups = NodeGroups.of(taxonomy.relations[space.name], others)
            groups.of_class[[(space.name, name) in ignored for name in space.names]] = False
            self._groups[space.name] = groups
        self._targets: dict[tuple[str, torch.device], GroupTargets] = {}

    @property
    def taxonomy(self) -> Taxonomy:
        """The taxonomy that the model was built with."""
        return self._taxonomy

    def label_rows(self) -> Sequence[LabelRows]:
        """Return the rows of the softmax, one a node."""
        return layer_rows("nodes", node_labels(self._taxonomy), self.head)

    def unified(self, embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B U h w"]:
        """Return the log-probabilities of all nodes."""
        scores: Tensor = self.head(embedding)
        return scores.float().log_softmax(1)

    def relate(self, unified: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
        """Return the log of the summed probability of each class's nodes."""
        return losses.class_logsumexp(unified, index)

    def train_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B A h w"]:
        """Return the logits of a softmax over the groups of nodes that compete in this dataset: their log-sum-exp."""
        scores: Tensor = self.head(embedding)
        return losses.class_logsumexp(scores, self._group_targets(space).nodes)

    def pixel_loss(self, scores: Float[Tensor, "B A h w"], batch: Batch) -> MeanLoss:
        """Return minus the mean log of the summed probability of the groups that each pixel's label may be."""
        targets = self._group_targets(batch.space)
        if isinstance(batch.annotation, Boxes | Tags):
            q = batch.annotation.soft(len(batch.space), _size(scores))
            return losses.set_nll(scores, torch.einsum("bdhw,da->bahw", q, targets.of_class))
        return losses.cross_entropy(scores, dense_labels(batch), allowed=targets.allowed, ohem=self.ohem)

    def _group_targets(self, space: LabelSpace) -> GroupTargets:
        """Return a dataset's groups on the device; built once, so that a training step copies nothing to it."""
        key = (space.name, self.device)
        if key not in self._targets:
            self._targets[key] = self._groups[space.name].targets(self.device)
        return self._targets[key]


class Union(_SharedSoftmax):
    """Classes of equal name are one node, and all nodes compete: UniSeg's "multi-dataset CE".

    This has the conflict that other methods remove: pixels of `motorcyclist` in one dataset lower the scores of the
    `rider` of another. `exact = False` compares normalised names (`labels.normalise`) and the synonyms of the cards.
    """

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        *,
        exact: bool = False,
        ohem: float | None = None,
    ) -> None:
        super().__init__(pixel_encoder, spaces, Taxonomy.by_name(spaces, exact=exact), "all", ohem)

    @property
    def name_classifier(self) -> NameClassifier:
        """The logits of all nodes, and their weights."""
        return NameClassifier(self.head, self.head.weight)


class Manual(_SharedSoftmax):
    """A taxonomy made by hand, or by anything that writes a table (MSeg; Bevandic et al.).

    `taxonomy` is the table, as a file or in memory. `competitors = "own"` lets only nodes of the dataset compete.
    `split` says how classes with several nodes are trained, whose masks MSeg relabelled by hand: with "union" any of
    the nodes may be right (NLL+), "ignore" leaves their pixels out, and "refuse" raises UserError, since cross entropy
    with one target is not defined for them.
    """

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        *,
        taxonomy: TaxonomySource,
        competitors: Literal["all", "own"] = "all",
        split: Literal["union", "ignore", "refuse"] = "union",
        ohem: float | None = None,
    ) -> None:
        given = resolve_taxonomy(taxonomy, spaces)
        if split not in ("union", "ignore", "refuse"):
            raise UserError(f"method.split is '{split}'; choose 'union', 'ignore' or 'refuse'")
        several = _split_classes(given)
        if split == "refuse" and several:
            dataset, name = several[0]
            raise UserError(
                f"{len(several)} classes have several nodes ('{name}' of '{dataset}' first), for which plain cross "
                "entropy is not defined; set method.split to 'union' or 'ignore', or give each one node"
            )
        ignored = frozenset(several) if split == "ignore" else frozenset()
        super().__init__(pixel_encoder, spaces, given, competitors, ohem, ignored)
        for space in spaces:
            _warn_of_shared_nodes(given, space)


def _split_classes(taxonomy: Taxonomy) -> list[tuple[str, str]]:
    return [
        (space.name, name)
        for space in taxonomy.spaces
        for name, row in zip(space.names, taxonomy.relations[space.name], strict=True)
        if row.sum() > 1
    ]


def _warn_of_shared_nodes(taxonomy: Taxonomy, space: LabelSpace) -> None:
    relation = taxonomy.relations[space.name]
    shared = relation.sum(0) > 1
    if shared.any():
        names = [space.names[d] for d in np.flatnonzero(relation[:, shared].any(1))]
        warnings.warn(
            f"{len(names)} classes of '{space.name}' share {shared.sum()} nodes ({', '.join(names[:5])}): at test such "
            "a node counts for each of them, and of classes with the same nodes only the first is ever predicted",
            stacklevel=3,
        )


def _size(scores: Float[Tensor, "B A h w"]) -> tuple[int, int]:
    return scores.shape[-2], scores.shape[-1]
