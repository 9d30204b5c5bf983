"""Pixel losses: a family of cross entropies that differ in what competes with a label, and binary cross entropy.

Union CE, own-class CE, NLL+ and logit-sum CE are all `cross_entropy`; they differ in the scores that it is given:

- own-class CE: `class_logsumexp` of the unified scores, one channel for each class;
- NLL+ (union CE where every class is one node): the same, and one more channel for the nodes of no class;
- logit-sum CE: the sums `M z` of each class's unified scores.

In null BCE and relational BCE (`binary_cross_entropy`) no channels compete: for each label some nodes have the target
1, some the target 0, and the others have no loss.

All take scores at feature resolution and labels at native size (`upsampling`), and all are means over the supervised
pixels, those that have a label: sums, and what divides them when those of the whole step are there (`mean_loss`).

Axes: B images, D classes (or channels that compete), U unified nodes, A nodes with a target, L labels, h w feature
resolution, H W native size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from manyseg.labels import IGNORE
from manyseg.losses.mean_loss import MeanLoss
from manyseg.losses.relation_index import padded_lists
from manyseg.losses.upsampling import PixelLoss, hardest_sum, upsampled_sum

__all__ = [
    "BinaryTargets",
    "binary_cross_entropy",
    "cross_entropy",
    "null_bce_targets",
    "set_nll",
    "soft_cross_entropy",
]

OHEM_SHARE = 16
"""Online hard example mining keeps at least one of this many supervised pixels."""


# Targets of binary losses.


class BinaryTargets(NamedTuple):
    """Which nodes have a target for which label, on a device; the loss has one channel of scores for each of `nodes`.

    Padded lists of channels, looked up by the label of a pixel, replace a one-hot target: nothing of size U x H x W is
    ever made.
    """

    nodes: Int[Tensor, " A"]
    """The nodes that have a target for any label, first those that have one for all. Only they need scores."""
    always: int
    """The number of channels that have a target for all labels; they come first."""
    extra: Int[Tensor, "L K"]
    """The further channels that have a target for label l; the rest of its row is IGNORE."""
    positive: Int[Tensor, "L J"]
    """The channels whose target is 1 for label l; the rest of its row is IGNORE."""

    @classmethod
    def of(cls, table: Int[Tensor, "L U"], device: torch.device) -> BinaryTargets:
        """Build from a table of targets: 1 (positive), 0 (negative) and -1 (null: no loss).

        A table on the CPU causes no synchronisation with the device. Raises ValueError for a label without a positive.
        """
        if not (table == 1).any(1).all():
            raise ValueError("a label has no positive node; its pixels are to be ignored")
        known = table >= 0
        every = known.all(0)
        nodes = torch.cat([every.nonzero(), (known.any(0) & ~every).nonzero()]).flatten()
        always = int(every.sum())
        extra = known[:, nodes].clone()
        extra[:, :always] = False
        lists = (padded_lists(extra).to(device), padded_lists(table[:, nodes] == 1).to(device))
        return cls(nodes.to(device), always, *lists)


def null_bce_targets(relation: Bool[Tensor, "D U"]) -> Int[Tensor, "D U"]:
    """Return the targets of null BCE: 1 for a class's nodes, 0 for other nodes of its dataset, -1 for all others."""
    return torch.where(relation, 1, torch.where(relation.any(0), 0, -1))


# Losses of pixels.


def _cross_entropy(scores: Float[Tensor, "B D R W"], labels: Int[Tensor, "B R W"]) -> Float[Tensor, "B R W"]:
    return F.cross_entropy(scores, labels.long(), ignore_index=IGNORE, reduction="none")


def _nll(scores: Float[Tensor, "B D R W"], labels: Int[Tensor, "B R W"]) -> Float[Tensor, "B R W"]:
    return F.nll_loss(scores, labels.long(), ignore_index=IGNORE, reduction="none")


def _partial(allowed: Int[Tensor, "L K"], normalised: bool) -> PixelLoss:
    """Return a loss: minus the log of the summed probability of the channels that each label allows."""

    def loss(scores: Float[Tensor, "B D R W"], labels: Int[Tensor, "B R W"]) -> Float[Tensor, "B R W"]:
        logp = scores if normalised else scores.log_softmax(1)
        channels = allowed[labels.clamp(min=0).long()].movedim(-1, 1)
        picked = logp.gather(1, channels.clamp(min=0)).masked_fill(channels == IGNORE, -math.inf)
        return (-picked.logsumexp(1)).masked_fill(labels == IGNORE, 0.0)

    return loss


def _soft(normalised: bool) -> PixelLoss:
    def loss(scores: Float[Tensor, "B D R W"], q: Float[Tensor, "B D R W"]) -> Float[Tensor, "B R W"]:
        return -(q * (scores if normalised else scores.log_softmax(1))).sum(1)

    return loss


def _set(normalised: bool) -> PixelLoss:
    def loss(scores: Float[Tensor, "B D R W"], q: Float[Tensor, "B D R W"]) -> Float[Tensor, "B R W"]:
        logp = scores if normalised else scores.log_softmax(1)
        allowed = q > 0
        return (-logp.masked_fill(~allowed, -math.inf).logsumexp(1)).masked_fill(~allowed.any(1), 0.0)

    return loss


def _binary(targets: BinaryTargets) -> PixelLoss:
    """Return a loss: the summed BCE of the channels with a target, softplus(z) for each, minus z for positive ones."""

    def loss(scores: Float[Tensor, "B A R W"], labels: Int[Tensor, "B R W"]) -> Float[Tensor, "B R W"]:
        rows = labels.clamp(min=0).long()
        total = F.softplus(scores[:, : targets.always]).sum(1) - _gather_channels(scores, targets.positive[rows]).sum(1)
        if targets.extra.shape[1]:
            # Null channels become -inf, whose softplus is 0 with a gradient of 0.
            total = total + F.softplus(_gather_channels(scores, targets.extra[rows], -math.inf)).sum(1)
        return total.masked_fill(labels == IGNORE, 0.0)

    return loss


def _gather_channels(scores: Float[Tensor, "B A R W"], lists: Int[Tensor, "B R W K"], null: float = 0.0) -> Tensor:
    channels = lists.movedim(-1, 1)
    return scores.gather(1, channels.clamp(min=0)).masked_fill(channels == IGNORE, null)


# Means over the supervised pixels.


def cross_entropy(
    scores: Float[Tensor, "B D h w"],
    labels: Int[Tensor, "B H W"],
    *,
    normalised: bool = False,
    allowed: Int[Tensor, "L K"] | None = None,
    ohem: float | None = None,
    align_corners: bool = False,
) -> MeanLoss:
    """Return the mean of `-log p(label)` over the supervised pixels; a sum of 0 with a graph if there is none.

    `normalised` says that the scores are log-probabilities already, of the softmax over all that competes. They then
    get no second softmax over D, which would cancel the first one's normaliser and turn NLL+ into own-class CE.
    A channel that no label names only competes. `allowed[l]` lists the channels that label l may be, the rest of its
    row is IGNORE; their probabilities add up, and pixels of a label that allows no channel are unsupervised. Without
    `allowed` label l is channel l.
    `ohem` is a probability (0.7 is usual): only pixels whose true label has less are kept, and never fewer than a
    sixteenth of the supervised ones. These are the hardest pixels of this process: the only thing here that depends on
    the number of processes.
    """
    pixel_loss: PixelLoss = _nll if normalised else _cross_entropy
    if allowed is not None:
        first = torch.where(labels == IGNORE, IGNORE, allowed[:, 0][labels.clamp(min=0).long()])
        if allowed.shape[1] == 1:
            labels = first
        else:
            labels = torch.where(first == IGNORE, IGNORE, labels)
            pixel_loss = _partial(allowed, normalised)
    return _labelled_mean(scores, labels, pixel_loss, ohem, align_corners)


def binary_cross_entropy(
    scores: Float[Tensor, "B A h w"],
    labels: Int[Tensor, "B H W"],
    targets: BinaryTargets,
    *,
    ohem: float | None = None,
) -> MeanLoss:
    """Return the mean over the supervised pixels of the SUM over nodes of the BCE; with a graph if there is none.

    `scores` are logits of `targets.nodes`, in that order. With `null_bce_targets` it is UniSeg's null BCE (Kim et al.
    2022, stage 1), with more positives its relational BCE. The divisor counts pixels, not pixels times nodes. `ohem`
    keeps the pixels whose nodes are all right with less than this probability; see `cross_entropy`.
    """
    return _labelled_mean(scores, labels, _binary(targets), ohem)


def soft_cross_entropy(
    scores: Float[Tensor, "B D h w"], q: Float[Tensor, "B D H W"], *, normalised: bool = False
) -> MeanLoss:
    """Return the mean of `-sum_c q_c log p_c` over the pixels where the weights `q` are not all 0."""
    return MeanLoss.of(upsampled_sum(scores, q, _soft(normalised)), (q > 0).any(1).sum())


def set_nll(scores: Float[Tensor, "B D h w"], q: Float[Tensor, "B D H W"], *, normalised: bool = False) -> MeanLoss:
    """Return the mean of `-log sum_{c: q_c > 0} p_c`: a positive weight only says that a class is possible."""
    return MeanLoss.of(upsampled_sum(scores, q, _set(normalised)), (q > 0).any(1).sum())


def _labelled_mean(
    scores: Float[Tensor, "B D h w"],
    labels: Int[Tensor, "B H W"],
    pixel_loss: PixelLoss,
    ohem: float | None,
    align_corners: bool = False,
) -> MeanLoss:
    """Return the mean over the labelled pixels, or over the hardest of them (OHEM), without waiting for the device."""
    if ohem is None:
        return MeanLoss.of(upsampled_sum(scores, labels, pixel_loss, align_corners), (labels != IGNORE).sum())
    hardest = hardest_sum(scores, labels, pixel_loss, -math.log(ohem), OHEM_SHARE, align_corners)
    return MeanLoss.of(*hardest)
