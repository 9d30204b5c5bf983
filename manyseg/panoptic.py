"""Panoptic segmentation: from queries to things and stuff, and its quality (PQ, SQ, RQ).

Axes: Q queries, D classes, N segments of an image, h w feature resolution, H W native size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from manyseg.labels import IGNORE, LabelSpace

__all__ = ["Panoptic", "Quality", "SegmentMap", "count_segments", "find_segments"]

SURE = 0.5
"""A mask is where its probability is at least this; a true and a found segment match above this IoU."""


class SegmentMap(NamedTuple):
    """The segments found in an image: a position in `classes` for every pixel, or IGNORE."""

    ids: Int[Tensor, "H W"]
    classes: Int[Tensor, " N"]
    scores: Float[Tensor, " N"]
    """The probability of each segment's class; of a stuff class in several parts, the best."""


@torch.no_grad()
def find_segments(
    classes: Float[Tensor, "Q D+1"],
    masks: Float[Tensor, "Q h w"],
    things: Bool[Tensor, " D"],
    size: tuple[int, int],
    least: float,
    visible: float,
) -> SegmentMap:
    """Turn class probabilities and mask logits into segments that do not overlap (MaskFormer; LMSeg, section 4).

    Kept are queries whose best class is not background and has a probability above `least`. A pixel is of the query
    whose class times mask probability is largest, if it is inside that query's mask. A segment that is left less than
    `visible` of its own mask is dropped, and its pixels are nobody's. Parts of one stuff class are one segment.
    """
    score, best = classes.max(1)
    kept = ((best < len(things)) & (score > least)).nonzero()[:, 0]
    owner = torch.full(size, IGNORE, device=masks.device)
    highest = torch.zeros(size, device=masks.device)
    # One mask at native size at a time: all of them would be Q x H x W.
    for q in kept.tolist():
        claim = score[q] * _native(masks[q], size)
        wins = claim > highest
        owner, highest = torch.where(wins, q, owner), torch.where(wins, claim, highest)
    ids = torch.full(size, IGNORE, device=masks.device)
    found: list[tuple[int, float]] = []
    stuff: dict[int, int] = {}
    for q in kept.tolist():
        own = _native(masks[q], size) >= SURE
        seen = own & (owner == q)
        area, left = int(own.sum()), int(seen.sum())
        if not left or left < visible * area:
            continue
        c, probability = int(best[q]), float(score[q])
        if not things[c] and c in stuff:
            number = stuff[c]
            found[number] = (c, max(found[number][1], probability))
        else:
            number = stuff[c] = len(found)
            found.append((c, probability))
        ids[seen] = number
    return SegmentMap(
        ids.cpu(), torch.tensor([c for c, _ in found], dtype=torch.int64), torch.tensor([p for _, p in found])
    )


def _native(mask: Float[Tensor, "h w"], size: tuple[int, int]) -> Float[Tensor, "H W"]:
    return F.interpolate(mask[None, None].float(), size=size, mode="bilinear", align_corners=False)[0, 0].sigmoid()


def count_segments(
    ids: Int[Tensor, "H W"],
    classes: Int[Tensor, " N"],
    found: SegmentMap,
    space_size: int,
) -> Float64[np.ndarray, "D 4"]:
    """Compare an image's true segments with those found: true positives, their IoU, false positives, false negatives.

    By class, as the panoptic API counts: pixels of no true segment (IGNORE: unlabelled, and crowds) are in no union,
    and a found segment that is mostly there is no error. Crowds of any class are so treated, the API's only of its own.
    """
    true, n = np.append(classes.numpy(), IGNORE), len(found.classes)
    t = torch.where(ids < 0, len(classes), ids).long()
    p = torch.where(found.ids < 0, n, found.ids).long()
    pairs = torch.bincount((t * (n + 1) + p).flatten(), minlength=len(true) * (n + 1)).view(-1, n + 1).numpy()
    # A padded or unlabelled segment is void as well.
    labelled = true != IGNORE
    void, areas = pairs[~labelled].sum(0)[:n], pairs.sum(0)[:n]
    true, inside = true[labelled], pairs[labelled]
    union = inside.sum(1)[:, None] + (areas - void) - inside[:, :n]
    iou = inside[:, :n] / np.maximum(union, 1)
    guess = found.classes.numpy()
    hit = (iou > SURE) & (true[:, None] == guess)
    out = np.zeros((space_size, 4))
    rows, columns = np.nonzero(hit)
    np.add.at(out, (true[rows], 0), 1)
    np.add.at(out, (true[rows], 1), iou[rows, columns])
    wrong = ~hit.any(0) & (areas > 0) & (void <= SURE * areas)
    np.add.at(out, (guess[wrong], 2), 1)
    missed = ~hit.any(1) & (inside.sum(1) > 0)
    np.add.at(out, (true[missed], 3), 1)
    return out


class Quality(NamedTuple):
    """Means over the classes that occur in truth or prediction, in 0..1; NaN where none does."""

    pq: float
    sq: float
    rq: float
    classes: int


@dataclass(frozen=True)
class Panoptic:
    """The panoptic quality of one label space (Kirillov et al. 2019).

    `counts` are sums of `count_segments` over images.
    """

    space: LabelSpace
    counts: Float64[np.ndarray, "D 4"]

    @property
    def by_class(self) -> Float64[np.ndarray, "D 3"]:
        """PQ, SQ and RQ of every class; NaN for classes that do not occur."""
        hits, iou, wrong, missed = self.counts.T
        size = hits + wrong / 2 + missed / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            sq = np.where(hits > 0, iou / hits, 0.0)
            return np.where(size[:, None] > 0, np.stack([iou / size, sq, hits / size], 1), np.nan)

    def quality(self, things: bool | None = None) -> Quality:
        """Average over all classes, or over things or stuff alone."""
        asked = np.array([things is None or c.thing == things for c in self.space.classes])
        rows = self.by_class[asked & ~np.isnan(self.by_class[:, 0])]
        if not len(rows):
            return Quality(float("nan"), float("nan"), float("nan"), 0)
        pq, sq, rq = rows.mean(0).tolist()
        return Quality(pq, sq, rq, len(rows))
