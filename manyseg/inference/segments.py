"""From mask queries to segments: things and stuff that do not overlap.

Axes: Q queries, D classes, K = D + 1 with background, N segments of an image, h w feature resolution, H W native size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from manyseg.inference.options import SegmentOptions
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
    options: SegmentOptions,
) -> SegmentMap:
    """Turn class probabilities and mask logits into segments that do not overlap (MaskFormer, Cheng et al. 2021).

    Queries are kept if their best class is not background and has a probability above `mask_threshold`. A pixel is
    assigned to the query for which the product of class and mask probability is largest. A query whose segment has less
    than the share `overlap_threshold` of the pixels inside of its mask is dropped, and its pixels belong to no segment.
    Its segment are all pixels assigned to it, or with the rule "inside" (ours) those of them inside of its mask. All
    kept queries of one stuff class make one segment. A query that no pixel is inside of has no segment.
    """
    probability, best = classes.max(1)
    kept = ((best < len(things)) & (probability > options.mask_threshold)).nonzero()[:, 0]
    assigned = torch.full(size, IGNORE, device=masks.device)
    largest = torch.full(size, -1.0, device=masks.device)
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
        shown = assigned == q if options.segment_rule == "maskformer" else own & (assigned == q)
        area, shown_area = int(own.sum()), int(shown.sum())
        if not area or not shown_area or shown_area < options.overlap_threshold * area:
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
