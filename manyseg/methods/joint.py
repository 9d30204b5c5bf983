"""Joint: a head for each dataset beside one set of shared nodes, which is found while the network is trained.

The heads are those of `multihead`: they know nothing of other datasets, so that what they call another dataset's pixels
is evidence of what labels mean together, whatever has been united so far. It is counted at every step, and at some of
them the label space is read from it anew (`relate.inclusion`): equal classes become one node, a class of coarse labels
the set of the nodes within it, and what is not certain stays apart. The shared nodes are trained by partial labels
(NLL+): a label is any of its class's nodes. A prediction is the geometric mean of both.

A node's weights are the mean of rows, one for each class that it stands for. All rows of a node get the same gradient,
and keep what was their own: when a node is parted again, every class goes on with its own row. So a label space may
change at any step, and no parameter changes its shape or its place.

Axes: B images, D classes of one dataset, T classes of all K datasets, U unified nodes, R rows, A groups of nodes, C
channels, h w feature resolution, H W native size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg import losses
from manyseg.data.annotation import Boxes, Dense, Segments, Tags
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import IGNORE, JointClasses, LabelSpace, Taxonomy
from manyseg.losses import MeanLoss, RelationIndex
from manyseg.methods.base import Method, dense_labels
from manyseg.methods.continuation import Continuation, LabelRows, layer_rows, node_labels
from manyseg.methods.initial_nodes import named
from manyseg.methods.node_groups import GroupTargets, NodeGroups
from manyseg.methods.pixel import PixelMethod
from manyseg.methods.sources import PROPOSAL, TaxonomySource, resolve_taxonomy
from manyseg.models import Features, PixelEncoder
from manyseg.relate.inclusion import inclusion_log_odds, related_nodes
from manyseg.relate.lexicon_evidence import lexicon_evidence

__all__ = ["Joint"]

FIRST = 50
"""The step before which the label space is read for the first time."""

GROWTH = 1.5
"""Each time at so many times the steps of the time before, so that no length of training has to be known."""

STRIDE = 2
"""Confusions are counted on every second row and column of the feature map."""

RELATED, UNRELATED, DIFFERENT = 3.0, -0.5, -1.0
"""Log-odds of a class being within another where the table to start from says so, where it does not, and where the
lexicon knows both words besides and nothing that relates them."""


class _Nodes(NamedTuple):
    """The label space as it stands, on a device."""

    taxonomy: Taxonomy
    members: Int[Tensor, "2 P"]
    """Pairs of a node and one of its rows."""
    shares: Float[Tensor, "P 1"]
    """What each row is of its node, the mean of its rows."""
    groups: dict[str, GroupTargets]


class Joint(PixelMethod):
    """One head a dataset and one set of shared nodes on the same embedding; the label space is refined in training.

    `taxonomy` is what it starts from: a table, "proposal" (by text, `manyseg labels`), "names" or "disjoint".
    With `refine = False` that is the label space for good, else it is evidence beside the confusions. `own` is the
    share of the datasets' own heads in loss and prediction; the rest is that of the shared nodes.
    """

    accepts = (Dense, Segments, Boxes, Tags)

    label_tensors: ClassVar[tuple[str, ...]] = ("relation", "core", "outside", "prior", "counts")

    relation: Tensor
    core: Tensor
    outside: Tensor
    prior: Tensor
    counts: Tensor
    fresh: Tensor

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        *,
        taxonomy: Literal["names", "disjoint"] | TaxonomySource = PROPOSAL,
        refine: bool = True,
        own: float = 0.5,
        ohem: float | None = None,
    ) -> None:
        super().__init__(pixel_encoder, spaces, ohem)
        if not 0 < own < 1:
            raise UserError(f"method.own is {own}; give a share between 0 and 1, 0.5 is usual")
        if taxonomy == "names":
            start = Taxonomy.by_name(self.spaces)
        elif taxonomy == "disjoint":
            start = Taxonomy.disjoint(self.spaces)
        else:
            start = resolve_taxonomy(taxonomy, self.spaces)
        self.refine, self.own = refine, own
        self._classes = JointClasses(self.spaces)
        self._names = None if refine else start.unified.names
        T, K = len(self._classes), len(self.spaces)
        rows = T if refine else len(start.unified)
        self.heads = nn.Conv2d(pixel_encoder.channels, T, 1)
        self.rows = nn.Conv2d(pixel_encoder.channels, rows, 1)
        # Evidence, which only a label space that is refined needs.
        counted = (T + K, T) if refine else (0, 0)
        self.register_buffer("prior", torch.from_numpy(_prior(start)).float() if refine else torch.zeros(0, 0))
        self.register_buffer("counts", torch.zeros(counted, dtype=torch.int64))
        self.register_buffer("fresh", torch.zeros(counted, dtype=torch.int64), persistent=False)
        if refine:
            relation, core, outside = self._read()
        else:
            relation, core = start.joint_relation, np.eye(rows, dtype=bool)
            outside = np.ones((K, rows), bool)
        self.register_buffer("relation", torch.from_numpy(relation))
        self.register_buffer("core", torch.from_numpy(core))
        self.register_buffer("outside", torch.from_numpy(outside))
        self._nodes: _Nodes | None = None
        self._stale = False
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    # The label space.

    @property
    def taxonomy(self) -> Taxonomy:
        """The label space as it stands."""
        return self._current().taxonomy

    def _current(self) -> _Nodes:
        if self._nodes is None or self._stale or self._nodes.shares.device != self.device:
            relation, core, outside = (t.cpu().numpy() for t in (self.relation, self.core, self.outside))
            taxonomy = named(self.spaces, relation, self._names)
            if self._nodes is not None and self._nodes.taxonomy.to_tsv() == taxonomy.to_tsv():
                taxonomy = self._nodes.taxonomy
            alive = relation.any(0)
            members = core.T[alive]
            shares = np.repeat(1 / np.maximum(members.sum(1), 1), members.sum(1))[:, None]
            groups = {
                s.name: NodeGroups.of(taxonomy.relations[s.name], outside[k, alive]).targets(self.device)
                for k, s in enumerate(self.spaces)
            }
            self._stale = False
            of = torch.from_numpy(np.stack(members.nonzero())).to(self.device)
            self._nodes = _Nodes(taxonomy, of, torch.from_numpy(shares).float().to(self.device), groups)
        return self._nodes

    def on_step(self, step: int) -> None:
        """Read the label space anew when it is time; this waits for the device."""
        if self.refine and _due(step):
            self._update()
            self.counts.floor_divide_(2)

    def _update(self) -> None:
        for name, value in zip(("relation", "core", "outside"), self._read(), strict=True):
            getattr(self, name).copy_(torch.from_numpy(value))
        self._stale = True

    def _read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        T, counts = len(self._classes), self.counts.cpu().numpy()
        odds = inclusion_log_odds(self._classes, counts[:T], counts[T:], self.prior.cpu().numpy().astype(float))
        return related_nodes(self._classes, odds, counts[:T])

    def step_losses(self, features: Sequence[Features], batches: Sequence[Batch]) -> list[dict[str, MeanLoss]]:
        """Return the losses of every batch, and count what all heads call the step's pixels, of all processes."""
        if self.training and self.refine:
            for one, batch in zip(features, batches, strict=True):
                if isinstance(batch.annotation, Dense | Segments):
                    self._count(one.embedding, batch)
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(self.fresh)
            self.counts += self.fresh
            self.fresh.zero_()
        return super().step_losses(features, batches)

    @torch.no_grad()
    def _count(self, embedding: Float[Tensor, "B C h w"], batch: Batch) -> None:
        embedding, labels = embedding[:, :, ::STRIDE, ::STRIDE], dense_labels(batch)
        labels = F.interpolate(labels[:, None].float(), size=embedding.shape[2:], mode="nearest")[:, 0].long()
        first = self._classes.rows[batch.space.name].start
        unlabelled = len(self._classes) + self.spaces.index(batch.space)
        true = torch.where(labels == IGNORE, unlabelled, labels + first)
        scores, flat = self.heads(embedding), self.fresh.view(-1)
        for rows in self._classes.rows.values():
            called = scores[:, rows].argmax(1) + rows.start
            place = (true * self.fresh.shape[1] + called).flatten()
            flat.scatter_add_(0, place, torch.ones_like(place))

    # Going on from another run.

    def label_rows(self) -> Sequence[LabelRows]:
        """Return the heads, and the shared nodes: their own rows, or the classes' rows and what nodes follow."""
        classes = node_labels(Taxonomy.disjoint(self.spaces))
        nodes, heads = node_labels(self.taxonomy), layer_rows("heads", classes, self.heads)
        if not self.refine:
            return [*layer_rows("nodes", nodes, self.rows), *heads]
        weight, bias = self._node_weights()
        means = [LabelRows("nodes", "weight", nodes, [*weight]), LabelRows("nodes", "bias", nodes, [*bias])]
        return [*heads, *layer_rows("rows", classes, self.rows), *means]

    def continue_from(self, old: Method) -> Continuation:
        """Take over the weights, and what was counted; the label space, where datasets and first table are the same.

        Else it is read anew, and a class that is new starts at the rows of the classes that it is united with.
        """
        own = {name: getattr(self, name).clone() for name in self.label_tensors}
        report = super().continue_from(old)
        same = isinstance(old, Joint) and self.refine and old.refine and old.spaces == self.spaces
        same = same and torch.equal(old.get_buffer("prior").to(self.device), own["prior"])
        for name, value in own.items():
            getattr(self, name).copy_(old.get_buffer(name) if same else value)
        self._stale = True
        if self.refine and not same:
            self._read_from(old)
        return report

    @torch.no_grad()
    def _read_from(self, old: Method) -> None:
        """Read the label space with the counts of another run, and let its new classes join their nodes."""
        if isinstance(old, Joint):
            ours, theirs = (
                {**m._classes.positions, **{s.name: len(m._classes) + k for k, s in enumerate(m.spaces)}}
                for m in (self, old)
            )
            rows = [key for key in ours if key in theirs]
            columns = [key for key in self._classes.keys if key in theirs]
            to, start = ([table[key] for key in rows] for table in (ours, theirs))
            across, begin = ([table[key] for key in columns] for table in (ours, theirs))
            self.counts[np.ix_(to, across)] = old.counts.to(self.counts.device)[np.ix_(start, begin)]
        self._update()
        known = {(s.name, name) for s in old.spaces for name in s.names}
        is_known = torch.tensor([key in known for key in self._classes.keys], device=self.device)
        for node in self.core.T:
            if (node & is_known).any() and (node & ~is_known).any():
                for rows_ in (self.rows.weight, self.rows.bias):
                    assert rows_ is not None
                    rows_[node & ~is_known] = rows_[node & is_known].mean(0)

    # Scores.

    def unified(self, embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B U h w"]:
        """Return the log-probabilities of the shared nodes."""
        return self._node_scores(embedding).float().log_softmax(1)

    def relate(self, unified: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
        """Return the log of the summed probability of each class's nodes."""
        return losses.class_logsumexp(unified, index)

    def dataset_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B D h w"]:
        """Return the weighted mean of the own head's log-probabilities and of those that follow from the nodes."""
        own = self._own_scores(embedding, space).float().log_softmax(1)
        shared = losses.class_logsumexp(self._node_scores(embedding), self.relation_index(space)).log_softmax(1)
        return torch.lerp(shared, own, self.own)

    def _own_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B D h w"]:
        rows = self._classes.rows[space.name]
        assert self.heads.bias is not None
        return F.conv2d(embedding, self.heads.weight[rows], self.heads.bias[rows])

    def _node_scores(self, embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B U h w"]:
        weight, bias = self._node_weights()
        return F.conv2d(embedding, weight[:, :, None, None], bias)

    def _node_weights(self) -> tuple[Float[Tensor, "U C"], Float[Tensor, " U"]]:
        assert self.rows.bias is not None
        nodes, rows = self._current(), torch.cat([self.rows.weight.flatten(1), self.rows.bias[:, None]], 1)
        node, row = nodes.members
        empty = rows.new_zeros(len(nodes.taxonomy.unified), rows.shape[1])
        found = empty.index_add(0, node, rows[row] * nodes.shares)
        return found[:, :-1], found[:, -1]

    # Losses.

    def train_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B A h w"]:
        """Return the own head's logits, then those of the groups of nodes that compete in this dataset."""
        groups = losses.class_logsumexp(self._node_scores(embedding), self._current().groups[space.name].nodes)
        return torch.cat([self._own_scores(embedding, space).float(), groups], 1)

    def pixel_loss(self, scores: Float[Tensor, "B A h w"], batch: Batch) -> MeanLoss:
        """Return the weighted mean of the own head's cross entropy and the partial-label loss of the nodes."""
        own, groups = scores[:, : len(batch.space)], scores[:, len(batch.space) :]
        targets = self._current().groups[batch.space.name]
        if isinstance(batch.annotation, Boxes | Tags):
            q = batch.annotation.soft(len(batch.space), (scores.shape[-2], scores.shape[-1]))
            first = losses.set_nll(own, q)
            second = losses.set_nll(groups, torch.einsum("bdhw,da->bahw", q, targets.of_class))
        else:
            labels = dense_labels(batch)
            first = losses.cross_entropy(own, labels, ohem=self.ohem)
            second = losses.cross_entropy(groups, labels, allowed=targets.allowed, ohem=self.ohem)
        return first.named("own") * self.own + second.named("nodes") * (1 - self.own)


def _prior(start: Taxonomy) -> Float[np.ndarray, "T T"]:
    """Return log-odds of every class being within another, by a table: where its nodes are some of the other's.

    What a whole says of its parts is nothing; a table without any shared node says nothing at all. Of pairs that it
    does not relate the lexicon says which are different for certain: heads also confuse what only looks alike in the
    images of one dataset.
    """
    if not start.shared:
        return np.zeros((len(start.classes),) * 2)
    # Sparse: a class has few nodes.
    R = csr_array(start.joint_relation.astype(np.int32))
    common, size = (R @ R.T).toarray(), start.joint_relation.sum(1)
    within = common == size[:, None]
    apart = np.where(lexicon_evidence(start.classes).different, DIFFERENT, UNRELATED)
    return np.where(within, RELATED, np.where(common > 0, 0.0, apart))


def _due(step: int) -> bool:
    at = float(FIRST)
    while at < step:
        at *= GROWTH
    return step >= FIRST and int(at) == step


def _forget(method: Joint, *_: object) -> None:
    """Take the label space from the buffers again, after another state was loaded."""
    method._stale = True
