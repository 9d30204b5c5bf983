"""The losses of a set of mask queries: each is matched with a segment, and learns its class and its mask.

Axes: L blocks, B images, Q queries, T segments, K classes of one dataset and background, E channels of a
pixel's embedding, N matched pairs, P points, h w feature resolution, H W native size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from manyseg.losses.mask import mask_losses, point_losses, sample_bilinear, sample_ids, shared_points
from manyseg.losses.matching import Matches, SegmentTargets, match, pair_costs, resize_nearest
from manyseg.losses.mean_loss import MeanLoss

__all__ = ["QueryOutput", "SetPredictionLoss", "class_loss"]


class QueryOutput(NamedTuple):
    """What the queries of all blocks predict for one batch, and its targets."""

    classes: Float[Tensor, "L B Q K"]
    """Log-probabilities; the last class is background, for queries without a segment."""
    masks: Float[Tensor, "L B Q E"]
    """Mask embeddings: the logits of a mask are their products with `embedding`."""
    embedding: Float[Tensor, "M B E h w"]
    """The pixels' embeddings of every block (M = L), or the same for all (M = 1)."""
    targets: SegmentTargets


class SetPredictionLoss(nn.Module):
    """Class, focal and dice losses after Hungarian matching, summed over blocks (MaskFormer; LMSeg, equations 2, 3, 5).

    `background_weight` is the weight of queries without a segment in the class loss; `points` is the number of sampled
    points on which costs and mask losses are computed, 0 takes all pixels.
    """

    def __init__(self, *, focal_weight: float, dice_weight: float, background_weight: float, points: int) -> None:
        super().__init__()
        self.focal_weight, self.dice_weight, self.background_weight = focal_weight, dice_weight, background_weight
        self.points = points

    def forward(
        self, outputs: Sequence[QueryOutput], generator: torch.Generator | None = None
    ) -> tuple[list[dict[str, MeanLoss]], list[Matches]]:
        """Return the losses `class`, `focal` and `dice` of every batch, each weighted, and how it was matched.

        The class loss is divided by the sum of the queries' weights, the others by the number of segments. All batches
        of a step are matched together, so that the host waits for the device only once. `generator`, of the CPU, draws
        the points.
        """
        matches = match([self._costs(output, generator) for output in outputs])
        return [self._losses(*one, generator) for one in zip(outputs, matches, strict=True)], matches

    @torch.no_grad()
    def _costs(self, output: QueryOutput, generator: torch.Generator | None) -> Float[Tensor, "L B Q T"]:
        """Compare every block's queries with the targets, at mask resolution or at points that all masks share."""
        embedding, ids = output.embedding.float(), output.targets.ids
        if self.points:
            place = shared_points(self.points, len(ids), ids.device, generator)
            image = torch.arange(len(ids), device=ids.device)
            ids, pixels = sample_ids(ids, image, place), [_sample_all(one, place) for one in embedding]
        else:
            ids = resize_nearest(ids, (embedding.shape[-2], embedding.shape[-1])).flatten(1)
            pixels = list(embedding.flatten(3))
        weights, blocks = (self.focal_weight, self.dice_weight), len(output.classes)
        costs = [
            pair_costs(logp.exp(), masks.float() @ one, ids, output.targets.classes, *weights)
            for logp, masks, one in zip(output.classes, output.masks, pixels * (blocks // len(pixels)), strict=True)
        ]
        return torch.stack(costs)

    def _losses(
        self,
        output: QueryOutput,
        found: Matches,
        generator: torch.Generator | None,
    ) -> dict[str, MeanLoss]:
        masks, start = [], 0
        pairs = output.masks[found.block, found.image, found.query]
        # Only the masks of matched queries are computed in training: the others are as large, and have no loss.
        # The pairs of an image are ordered by block, as many in each.
        for embedding, count in zip(output.embedding.transpose(0, 1), found.counts, strict=True):
            parts = pairs[start : start + count].view(len(embedding), count // len(embedding), pairs.shape[-1])
            masks.append(torch.einsum("mnc,mchw->mnhw", parts, embedding).flatten(0, 1))
            start += count
        logits, ids = torch.cat(masks), output.targets.ids
        if self.points:
            focal, dice = point_losses(logits, found.segment, ids, found.counts, self.points, generator)
        else:
            focal, dice = mask_losses(logits, found.segment, ids, found.counts)
        classes = _target_classes(output, found)
        return {
            "class": class_loss(output.classes, classes, self.background_weight),
            "focal": MeanLoss.of(focal, float(found.segments)) * self.focal_weight,
            "dice": MeanLoss.of(dice, float(found.segments)) * self.dice_weight,
        }


def class_loss(classes: Float[Tensor, "L B Q K"], targets: Int[Tensor, "L B Q"], background_weight: float) -> MeanLoss:
    """Return the weighted cross entropy of all queries, over the weights of those of one block, summed over blocks.

    Queries whose target is background have the weight `background_weight`, others 1. MaskFormer and LMSeg's authors'
    code take this weighted mean; LMSeg's equation 2 seems to be the plain mean.
    """
    nll = -classes.gather(-1, targets[..., None])[..., 0]
    weight = torch.where(targets == classes.shape[-1] - 1, background_weight, 1.0)
    return MeanLoss.of((weight * nll).sum(), weight.sum() / len(classes))


def _target_classes(output: QueryOutput, found: Matches) -> Int[Tensor, "L B Q"]:
    """Return the class of every query's segment, background for queries without one."""
    background = output.classes.shape[-1] - 1
    out = torch.full(output.classes.shape[:-1], background, device=output.classes.device)
    return out.index_put((found.block, found.image, found.query), output.targets.classes[found.image, found.segment])


def _sample_all(embedding: Float[Tensor, "B E h w"], place: Float[Tensor, "B P 2"]) -> Float[Tensor, "B E P"]:
    b, e = embedding.shape[:2]
    return sample_bilinear(embedding.flatten(0, 1), place.repeat_interleave(e, 0)).view(b, e, -1)
