"""Pixel losses: one family over (scores of the classes, what competes, target), evaluated in bands of bounded memory.

Scores live at feature resolution, labels at native size. A loss of the family is a function of one band of rows of the
bilinearly upsampled scores (`PixelLoss`); `upsampled` sums it over an image so that nothing of size D x H x W is ever
held. Union CE, own-class CE, NLL+ and logit-sum CE are all `cross_entropy`; they differ in the scores it is given:

- own-class CE: `class_logsumexp` of the unified scores, one channel a class;
- NLL+ (union CE where every class is one node): the same, and one more channel for the nodes of no class;
- logit-sum CE: the sums `M z` of each class's unified scores.

In null BCE and relational BCE (`binary_cross_entropy`) nothing competes: each label has nodes that should be 1, nodes
that should be 0, and nodes that it says nothing of.

Axes: B images, D classes (or channels that compete), U unified nodes, h w feature resolution, H W native size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from manyseg.labels import IGNORE

__all__ = [
    "PixelLoss",
    "RelationIndex",
    "Targets",
    "binary_cross_entropy",
    "class_logsumexp",
    "class_max",
    "cross_entropy",
    "null_table",
    "set_nll",
    "soft_cross_entropy",
    "supervised",
    "upsampled",
]

BAND_BYTES = {"cpu": 4 << 20, "cuda": 64 << 20}
"""Size of one band of upsampled scores, by device: a processor's cache, or enough to hide a kernel's launch."""

OHEM_SHARE = 16
"""Online hard example mining keeps at least one supervised pixel in this many."""

PixelLoss: TypeAlias = Callable[[Float[Tensor, "B D R W"], Tensor], Float[Tensor, "B R W"]]
"""Maps R rows of upsampled scores and the same rows of the target to the loss of each pixel.

It must give 0, with a zero gradient, where there is no supervision. Whatever else it reads is a constant to it.
"""


# Relations on a device.


class RelationIndex(NamedTuple):
    """A relation of D classes and U nodes on a device: as a matrix, and as the list of its E true entries."""

    matrix: Bool[Tensor, "D U"]
    classes: Int[Tensor, " E"]
    nodes: Int[Tensor, " E"]
    single: bool
    """True where every class has exactly one node; `nodes` then lists them in class order."""

    @classmethod
    def of(cls, relation: Bool[Tensor, "D U"], device: torch.device) -> RelationIndex:
        """List the entries of `relation`. From a CPU tensor this costs no synchronisation with the device."""
        classes, nodes = relation.nonzero().unbind(1)
        single = bool((relation.sum(1) == 1).all())
        return cls(relation.to(device), classes.to(device), nodes.to(device), single)


def class_logsumexp(scores: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
    """Return `log sum exp` over each class's nodes, in float32; -inf for a class without nodes.

    Log-probabilities of nodes become those of classes: probabilities of nodes add up (MSeg's test rule, NLL+). Finite
    however far a class lies below the largest score, since every class has its own maximum. O(entries of the relation).
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).index_select(1, index.nodes)
    if index.single:
        return scores
    with torch.no_grad():
        floor = _largest(scores, index)
    # The maximum is a constant: its gradient cancels between the two terms.
    info = torch.finfo(scores.dtype)
    shifted = (scores - floor.clamp(min=info.min).index_select(1, index.classes)).exp()
    total = torch.zeros_like(floor).index_add(1, index.classes, shifted)
    return floor + total.clamp(min=info.tiny).log()


def class_max(scores: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
    """Return the largest score of each class's nodes; -inf for a class without nodes."""
    scores = scores.index_select(1, index.nodes)
    return scores if index.single else _largest(scores, index)


def _largest(scores: Float[Tensor, "B E h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
    b, _, h, w = scores.shape
    lowest = scores.new_full((b, len(index.matrix), h, w), -math.inf)
    return lowest.scatter_reduce(1, index.classes[:, None, None].expand(b, -1, h, w), scores, "amax")


# Targets of binary losses.


class Targets(NamedTuple):
    """What every label asks of the nodes, on a device: a binary loss has one channel of scores for each of `nodes`.

    A few padded lists stand for a one-hot target: what a pixel's label asks is looked up, and nothing of size U x H x W
    is ever made.
    """

    nodes: Int[Tensor, " A"]
    """The nodes that any label judges; first come those that all labels judge. No other one needs a score."""
    always: int
    """How many channels all labels judge."""
    extra: Int[Tensor, "L K"]
    """The further channels that label l judges; the rest of its row is IGNORE."""
    positive: Int[Tensor, "L J"]
    """The channels that label l wants to be 1; the rest of its row is IGNORE."""

    @classmethod
    def of(cls, table: Int[Tensor, "L U"], device: torch.device) -> Targets:
        """List the entries of a table of 1 (positive), 0 (negative) and -1 (null: no loss).

        From a CPU tensor this costs no synchronisation with the device. Raises ValueError for a label without positive.
        """
        if not (table == 1).any(1).all():
            raise ValueError("a label has no positive node; its pixels are to be ignored")
        judged = table >= 0
        every = judged.all(0)
        nodes = torch.cat([every.nonzero(), (judged.any(0) & ~every).nonzero()]).flatten()
        always = int(every.sum())
        extra = judged[:, nodes].clone()
        extra[:, :always] = False
        lists = (_padded(extra).to(device), _padded(table[:, nodes] == 1).to(device))
        return cls(nodes.to(device), always, *lists)


def null_table(relation: Bool[Tensor, "D U"]) -> Int[Tensor, "D U"]:
    """Return the targets of null BCE: 1 for a class's nodes, 0 for other nodes of its dataset, -1 for all others."""
    return torch.where(relation, 1, torch.where(relation.any(0), 0, -1))


def _padded(mask: Bool[Tensor, "L A"]) -> Int[Tensor, "L K"]:
    """List the true positions of every row, the shorter lists filled up with IGNORE."""
    order: Tensor = mask.int().argsort(stable=True, dim=1, descending=True)[:, : int(mask.sum(1).max())]
    return order.masked_fill(~mask.gather(1, order), IGNORE)


# Losses of pixels.


def _cross_entropy(scores: Float[Tensor, "B D R W"], labels: Int[Tensor, "B R W"]) -> Float[Tensor, "B R W"]:
    return F.cross_entropy(scores, labels.long(), ignore_index=IGNORE, reduction="none")


def _nll(scores: Float[Tensor, "B D R W"], labels: Int[Tensor, "B R W"]) -> Float[Tensor, "B R W"]:
    return F.nll_loss(scores, labels.long(), ignore_index=IGNORE, reduction="none")


def _partial(allowed: Int[Tensor, "L K"], normalised: bool) -> PixelLoss:
    """Minus the log of the summed probability of the channels that each label allows."""

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


def _binary(targets: Targets) -> PixelLoss:
    """Return the sum of the judged channels' BCE: softplus(z) for each, less z for the positive ones."""

    def loss(scores: Float[Tensor, "B A R W"], labels: Int[Tensor, "B R W"]) -> Float[Tensor, "B R W"]:
        rows = labels.clamp(min=0).long()
        total = F.softplus(scores[:, : targets.always]).sum(1) - _pick(scores, targets.positive[rows]).sum(1)
        if targets.extra.shape[1]:
            # Null channels become -inf, whose softplus is 0 with a gradient of 0.
            total = total + F.softplus(_pick(scores, targets.extra[rows], -math.inf)).sum(1)
        return total.masked_fill(labels == IGNORE, 0.0)

    return loss


def _pick(scores: Float[Tensor, "B A R W"], lists: Int[Tensor, "B R W K"], null: float = 0.0) -> Tensor:
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
) -> Float[Tensor, ""]:
    """Return the mean of `-log p(label)` over the supervised pixels; 0 with a graph if there is none.

    `normalised` scores are log-probabilities, under whatever competes, and get no second softmax over D: it would
    cancel their normaliser and turn NLL+ into own-class CE. Channels that no label names only compete.
    `allowed[l]` lists the channels that label l may be, the rest of its row is IGNORE; their probabilities add up, and
    a label that allows none is unsupervised. Without it label l is channel l.
    `ohem` is a probability (0.7 is usual): only pixels whose truth has less are kept, and never fewer than a sixteenth
    of the supervised ones (the hardest of this process, which is the one term that depends on the number of ranks).
    """
    pixel_loss: PixelLoss = _nll if normalised else _cross_entropy
    if allowed is not None:
        first = _look_up(allowed[:, 0], labels)
        if allowed.shape[1] == 1:
            labels = first
        else:
            labels = torch.where(first == IGNORE, IGNORE, labels)
            pixel_loss = _partial(allowed, normalised)
    if ohem is not None:
        labels = _hardest(scores, labels, pixel_loss, ohem)
    return upsampled(scores, labels, pixel_loss) / supervised(labels != IGNORE)


def binary_cross_entropy(
    scores: Float[Tensor, "B A h w"],
    labels: Int[Tensor, "B H W"],
    targets: Targets,
    *,
    ohem: float | None = None,
) -> Float[Tensor, ""]:
    """Return the mean over the supervised pixels of the SUM of the judged nodes' BCE; 0 with a graph if there is none.

    `scores` are logits of `targets.nodes`, in that order. With `null_table` it is UniSeg's null BCE (Kim et al. 2022,
    stage 1), with more positives its relational BCE. The divisor counts pixels, not pixels and nodes, over all
    processes (`supervised`). `ohem` keeps the pixels whose nodes are all right with less than this probability; see
    `cross_entropy`.
    """
    pixel_loss = _binary(targets)
    if ohem is not None:
        labels = _hardest(scores, labels, pixel_loss, ohem)
    return upsampled(scores, labels, pixel_loss) / supervised(labels != IGNORE)


def soft_cross_entropy(
    scores: Float[Tensor, "B D h w"], q: Float[Tensor, "B D H W"], *, normalised: bool = False
) -> Float[Tensor, ""]:
    """Return the mean of `-sum_c q_c log p_c` over the pixels where the weights `q` are not all 0."""
    return upsampled(scores, q, _soft(normalised)) / supervised((q > 0).any(1))


def set_nll(
    scores: Float[Tensor, "B D h w"], q: Float[Tensor, "B D H W"], *, normalised: bool = False
) -> Float[Tensor, ""]:
    """Return the mean of `-log sum_{c: q_c > 0} p_c`: a weight says that a class is possible, no more."""
    return upsampled(scores, q, _set(normalised)) / supervised((q > 0).any(1))


def supervised(valid: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the number of true pixels that a sum of losses is divided by; at least 1 over all processes.

    In distributed training it is the mean of the processes' numbers: since gradients are averaged over processes, the
    step is then that of one process with all the images, however unevenly their labels are spread.
    """
    count = valid.sum()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        return count.clamp(min=1) / dist.get_world_size()
    return count.clamp(min=1).float()


def _look_up(table: Int[Tensor, " L"], labels: Int[Tensor, "B H W"]) -> Int[Tensor, "B H W"]:
    return torch.where(labels == IGNORE, IGNORE, table[labels.clamp(min=0).long()])


def _hardest(
    scores: Float[Tensor, "B D h w"], labels: Int[Tensor, "B H W"], pixel_loss: PixelLoss, probability: float
) -> Int[Tensor, "B H W"]:
    """Ignore all labels but the hardest (OHEM), without asking the device how many there are."""
    with torch.no_grad(), _exactly(scores):
        loss = torch.cat([pixel_loss(up, t) for _, up, t in _bands(scores, labels)], 1)
        valid = labels != IGNORE
        loss = loss.masked_fill(~valid, -math.inf)
        top = loss.flatten().topk(max(1, loss.numel() // OHEM_SHARE)).values
        least = (valid.sum() // OHEM_SHARE).clamp(min=1)
        # The bound of the probability, or, if too few are that hard, the loss of the last one that is needed.
        bound = top.gather(0, least.view(1) - 1).clamp(max=-math.log(probability))
        return torch.where((loss >= bound) & valid, labels, IGNORE)


# Bands.


def upsampled(scores: Float[Tensor, "B D h w"], target: Tensor, pixel_loss: PixelLoss) -> Float[Tensor, ""]:
    """Return the SUM of a pixel loss over scores upsampled to the size of the target's last two axes.

    Upsampling is bilinear with `align_corners=False`, and none where the sizes are equal. The gradient with respect to
    `scores` is computed band by band together with the value, so backward only scales it: memory is a few times
    `BAND_BYTES` beside one float32 copy of `scores`. Computed in float32 under autocast, without a host
    synchronisation. Not differentiable twice; `target` and what `pixel_loss` closes over get no gradient.
    """
    with _exactly(scores):
        if torch.is_grad_enabled() and scores.requires_grad:
            total: Tensor = _Upsampled.apply(scores, target, pixel_loss)
            return total
        return torch.stack([pixel_loss(up, t).sum() for _, up, t in _bands(scores, target)]).sum()


class _Upsampled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, target: Tensor, pixel_loss: PixelLoss) -> Tensor:
        grad = torch.zeros_like(scores, dtype=_accurate(scores))
        total = grad.new_zeros(())
        with torch.enable_grad():
            for low, up, part in _bands(scores.detach(), target, leaf=True):
                loss = pixel_loss(up, part).sum()
                grad[:, :, low.rows] += torch.autograd.grad(loss, low.scores)[0]
                total += loss.detach()
        ctx.save_for_backward(grad)
        ctx.dtype = scores.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, out: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return (grad * out).to(ctx.dtype), None, None


class _Low(NamedTuple):
    """The rows of the feature map that a band of the image is interpolated from."""

    rows: slice
    scores: Float[Tensor, "B D k w"]


def _exactly(scores: Tensor) -> torch.autocast:
    return torch.autocast(scores.device.type, enabled=False)


def _accurate(scores: Tensor) -> torch.dtype:
    return torch.promote_types(scores.dtype, torch.float32)


def _bands(scores: Tensor, target: Tensor, leaf: bool = False) -> Iterator[tuple[_Low, Tensor, Tensor]]:
    """Yield (source rows, upsampled rows, rows of the target); `leaf` makes the first differentiable."""
    (h, w), size = scores.shape[2:], (target.shape[-2], target.shape[-1])
    dtype = _accurate(scores)
    budget = BAND_BYTES.get(scores.device.type, BAND_BYTES["cuda"])
    step = max(1, budget // max(1, scores.shape[0] * scores.shape[1] * size[1] * dtype.itemsize))
    for top in range(0, size[0], step):
        bottom = min(top + step, size[0])
        rows = slice(top, bottom) if (h, w) == size else _source_rows(h, size[0], top, bottom)
        low = _Low(rows, scores[:, :, rows].to(dtype))
        if leaf:
            low = _Low(rows, low.scores.detach().requires_grad_())
        up = low.scores if (h, w) == size else _stretch(low, h, size, top, bottom)
        yield low, up, target[..., top:bottom, :]


def _source_rows(h: int, height: int, top: int, bottom: int) -> slice:
    # Row i lies at ((2i + 1) h - H) / 2H of the feature map, clamped at 0: whole numbers, so host and device agree.
    first = max((2 * top + 1) * h - height, 0) // (2 * height)
    last = max((2 * bottom - 1) * h - height, 0) // (2 * height)
    return slice(first, min(last + 2, h))


def _stretch(low: _Low, h: int, size: tuple[int, int], top: int, bottom: int) -> Float[Tensor, "B D R W"]:
    """Interpolate rows top..bottom of an image of `size` exactly as `F.interpolate` does on the whole map."""
    height, width = size
    i = torch.arange(top, bottom, device=low.scores.device)
    position = ((2 * i + 1) * h - height).clamp(min=0)
    above = position // (2 * height)
    share = (position - above * 2 * height).to(low.scores.dtype) / (2 * height)
    below = (above + 1).clamp(max=h - 1)
    first, second = (low.scores.index_select(2, r - low.rows.start) for r in (above, below))
    rows = torch.lerp(first, second, share[:, None])
    return F.interpolate(rows, size=(bottom - top, width), mode="bilinear", align_corners=False)
