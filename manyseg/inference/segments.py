"""From mask queries to segments: things and stuff that do not overlap.

Axes: Q queries, D classes, K = D + 1 with background, N segments of an image, h w feature resolution, H W native size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from manyseg.labels import IGNORE

__all__ = ["SegmentMap", "find_segments"]

INSIDE = 0.5
"""A pixel is inside of a mask where the mask's probability is at least this."""


class SegmentMap(NamedTuple):
    """The segments found in an image: a position in `classes` for every pixel, or IGNORE."""

    ids: Int[Tensor, "H W"]
    classes: Int[Tensor, " N"]
    scores: Float[Tensor, " N"]
    """The probability of each segment's class; the largest one if a segment of stuff was joined from several."""


@torch.no_grad()
def find_segments(
    classes: Float[Tensor, "Q K"],
    masks: Float[Tensor, "Q h w"],
    things: Bool[Tensor, " D"],
    size: tuple[int, int],
    mask_threshold: float,
    overlap_threshold: float,
) -> SegmentMap:
    """Turn class probabilities and mask logits into segments that do not overlap (MaskFormer; LMSeg, section 4).

    Queries are kept if their best class is not background and has a probability above `mask_threshold`. A pixel is
    assigned to the query for which the product of class and mask probability is largest, if it is inside of that
    query's mask. A query that is assigned less than the share `overlap_threshold` of its own mask is dropped, and its
    pixels belong to no segment. All kept queries of one stuff class make one segment.
    """
    probability, best = classes.max(1)
    kept = ((best < len(things)) & (probability > mask_threshold)).nonzero()[:, 0]
    assigned = torch.full(size, IGNORE, device=masks.device)
    largest = torch.zeros(size, device=masks.device)
    # One mask at native size at a time: all of them would be Q x H x W.
    for q in kept.tolist():
        product = probability[q] * _native(masks[q], size)
        larger = product > largest
        assigned, largest = torch.where(larger, q, assigned), torch.where(larger, product, largest)
    ids = torch.full(size, IGNORE, device=masks.device)
    found: list[tuple[int, float]] = []
    stuff: dict[int, int] = {}
    for q in kept.tolist():
        own = _native(masks[q], size) >= INSIDE
        shown = own & (assigned == q)
        area, shown_area = int(own.sum()), int(shown.sum())
        if not shown_area or shown_area < overlap_threshold * area:
            continue
        c, score = int(best[q]), float(probability[q])
        if not things[c] and c in stuff:
            number = stuff[c]
            found[number] = (c, max(found[number][1], score))
        else:
            number = stuff[c] = len(found)
            found.append((c, score))
        ids[shown] = number
    return SegmentMap(
        ids.cpu(), torch.tensor([c for c, _ in found], dtype=torch.int64), torch.tensor([p for _, p in found])
    )


def _native(mask: Float[Tensor, "h w"], size: tuple[int, int]) -> Float[Tensor, "H W"]:
    return F.interpolate(mask[None, None].float(), size=size, mode="bilinear", align_corners=False)[0, 0].sigmoid()
