"""The baselines: a head for each dataset, the union of names, and a taxonomy made by hand.

All are one linear layer on the pixel embedding; they differ in the taxonomy and in who competes with a label.

Upsampling is part of the comparison. Class scores of one softmax are translated at feature resolution as the log-sums
of each class's nodes, with one more channel for the nodes of no class; these are upsampled, and the softmax is taken at
native size, as it is for a single dataset. At feature resolution that is the loss of the papers to the last digit.
Upsampled log-probabilities would be another loss: halfway between two sure pixels they leave no probability to either.

Boxes and tags are partial labels: a pixel may be any class whose box covers it, or any of its image's tags, and the
loss is minus the log of their summed probability (set NLL). What no box covers is left alone.

Axes: B images, D classes of one dataset, U unified nodes, A channels that compete, K datasets, C channels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg import losses
from manyseg.data.annotation import Boxes, Dense, Segments, Tags
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import IGNORE, LabelSpace, Relation, Taxonomy
from manyseg.losses import RelationIndex
from manyseg.methods.base import PixelMethod, dense_labels
from manyseg.methods.sources import TaxonomySource, resolve_taxonomy
from manyseg.models import PixelEncoder

__all__ = ["Manual", "MultiHead", "Union"]


class MultiHead(PixelMethod):
    """A head of its own for every dataset; with one dataset, the ordinary single model.

    Nothing is shared but the pixels, and no class competes with another dataset's. Only the asked head is computed.

    The unified space is all heads' classes side by side: each head's log-probabilities divided by the number of heads.
    An unseen class is read as the mean, over the heads that have a node for it, of the probability they give it: a head
    that cannot know a class does not vote against it.
    """

    accepts = (Dense, Segments, Boxes, Tags)

    heads: Tensor

    def __init__(self, pixel_encoder: PixelEncoder, spaces: Sequence[LabelSpace], *, ohem: float | None = None) -> None:
        super().__init__(pixel_encoder, spaces, ohem)
        self._taxonomy = Taxonomy.disjoint(self.spaces)
        self.head = nn.Conv2d(pixel_encoder.channels, len(self._taxonomy.unified), 1)
        sizes = self._taxonomy.classes.sizes
        self._rows = self._taxonomy.classes.rows
        # Float[U, K], 1 where node u is of head k.
        self.register_buffer("heads", torch.eye(len(sizes)).repeat_interleave(torch.tensor(sizes), 0), persistent=False)

    @property
    def taxonomy(self) -> Taxonomy:
        """Every class of every dataset is a node of its own."""
        return self._taxonomy

    def dataset_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B D h w"]:
        """Return the logits of the dataset's own head."""
        rows = self._rows[space.name]
        assert self.head.bias is not None
        return F.conv2d(embedding, self.head.weight[rows], self.head.bias[rows])

    def pixel_loss(self, scores: Float[Tensor, "B D h w"], batch: Batch) -> Float[Tensor, ""]:
        """Return the cross entropy of the own head, or the set NLL of boxes and tags."""
        if isinstance(batch.annotation, Boxes | Tags):
            return losses.set_nll(scores, batch.annotation.soft(len(batch.space), _size(scores)))
        return super().pixel_loss(scores, batch)

    def unified(self, embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B U h w"]:
        """Return all heads' log-probabilities side by side, less `log K`, so that they sum to 1."""
        heads = [self.dataset_scores(embedding, space).float().log_softmax(1) for space in self.spaces]
        return torch.cat(heads, 1) - math.log(len(heads))

    def relate(self, unified: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
        """Return the log of the mean probability of each class over the heads that have a node for it."""
        voters = (index.matrix.to(self.heads.dtype) @ self.heads > 0).sum(1).clamp(min=1)
        mean = losses.class_logsumexp(unified, index) - voters.log()[:, None, None]
        return mean + math.log(len(self.spaces))


class _Joint(PixelMethod):
    """One softmax over the nodes of a taxonomy.

    The loss is minus the log of the summed probability of the nodes that a label may be: NLL+ (Bevandic et al. 2022),
    and plain cross entropy where that is one node. Nodes of no class of the dataset compete, which teaches "none of
    these"; `competitors = "own"` leaves them out. At test, probabilities of nodes add up to those of classes (MSeg).
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
        self._rivals = {}
        for space in self.spaces:
            rivals = _rivals(taxonomy.relations[space.name], rest=competitors == "all")
            rivals.allowed[[n for n, name in enumerate(space.names) if (space.name, name) in ignored]] = IGNORE
            self._rivals[space.name] = rivals
        self._on_device: dict[tuple[str, torch.device], tuple[RelationIndex, Tensor, Tensor]] = {}

    @property
    def taxonomy(self) -> Taxonomy:
        """The taxonomy that the model was built with."""
        return self._taxonomy

    def unified(self, embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B U h w"]:
        """Return the log-probabilities of all nodes."""
        scores: Tensor = self.head(embedding)
        return scores.float().log_softmax(1)

    def relate(self, unified: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
        """Return the log of the summed probability of each class's nodes."""
        return losses.class_logsumexp(unified, index)

    def train_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B A h w"]:
        """Return the log-sums of the groups of nodes that compete in this dataset; their softmax is still to come."""
        scores: Tensor = self.head(embedding)
        return losses.class_logsumexp(scores, self._competing(space)[0])

    def pixel_loss(self, scores: Float[Tensor, "B A h w"], batch: Batch) -> Float[Tensor, ""]:
        """Return minus the mean log of the summed probability of the groups that each pixel's label may be."""
        _, allowed, possible = self._competing(batch.space)
        if isinstance(batch.annotation, Boxes | Tags):
            q = batch.annotation.soft(len(batch.space), _size(scores))
            return losses.set_nll(scores, torch.einsum("bdhw,da->bahw", q, possible))
        return losses.cross_entropy(scores, dense_labels(batch), allowed=allowed, ohem=self.ohem)

    def _competing(self, space: LabelSpace) -> tuple[RelationIndex, Int[Tensor, "D K"], Float[Tensor, "D A"]]:
        """Return the groups, those of each class as a list, and as a row of zeros and ones."""
        key = (space.name, self.device)
        if key not in self._on_device:
            rivals = self._rivals[space.name]
            index = RelationIndex.of(torch.tensor(rivals.groups), self.device)
            possible = (rivals.allowed[:, :, None] == np.arange(len(rivals.groups))).any(1)
            allowed = torch.tensor(rivals.allowed).to(self.device)
            self._on_device[key] = index, allowed, torch.tensor(possible).float().to(self.device)
        return self._on_device[key]


class Union(_Joint):
    """Classes of equal name are one node, and all nodes compete: UniSeg's "multi-dataset CE".

    This is the conflict that other methods remove: pixels of `motorcyclist` in one dataset push down the `rider` of
    another. `exact = False` compares names as `labels.normalise` folds them, and the synonyms that cards list.
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


class Manual(_Joint):
    """A taxonomy made by hand, or by anything that writes a table (MSeg; Bevandic et al.).

    `taxonomy` is the table, a file or in memory. `competitors = "own"` lets only nodes of the dataset compete.
    `split` says what becomes of classes with several nodes, whose masks MSeg relabelled by hand: "union" learns that
    any of the nodes may be right (NLL+), "ignore" drops their pixels, "refuse" raises UserError, as plain cross entropy
    is not defined for them.
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


class _Rivals(NamedTuple):
    """Who competes in one dataset: groups of nodes that its labels cannot tell apart, and the groups of each class."""

    groups: Bool[np.ndarray, "A U"]
    allowed: Int[np.ndarray, "D K"]


def _rivals(relation: Relation, rest: bool) -> _Rivals:
    """Group nodes that belong to the same classes; `rest` keeps, last, the group of those that belong to none.

    In an exclusive taxonomy the groups are the classes. Classes that share all nodes (MSeg merges some) have one group
    in common, classes that share some have several each. Groups never overlap, so a softmax over them counts every node
    once.
    """
    nodes: dict[tuple[int, ...], list[int]] = {}
    for u, column in enumerate(relation.T):
        nodes.setdefault(tuple(np.flatnonzero(column).tolist()), []).append(u)
    if not rest:
        nodes.pop((), None)
    keys = sorted(nodes, key=lambda classes: (not classes, classes))
    groups = np.zeros((len(keys), relation.shape[1]), bool)
    for group, key in zip(groups, keys, strict=True):
        group[nodes[key]] = True
    members = [[a for a, key in enumerate(keys) if c in key] for c in range(len(relation))]
    width = max(map(len, members))
    return _Rivals(groups, np.array([m + [IGNORE] * (width - len(m)) for m in members]))
