"""Which query is matched with which segment: targets, costs, and the Hungarian matching of a whole step.

All costs of a step (datasets, blocks, images) are computed on the device, moved to the host in one copy, matched there
by scipy, and the pairs go back in one copy.

Axes: L blocks, B images, Q queries, T segments of an image, K classes of a dataset and background,
P pixels or points that masks are compared at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from manyseg.labels import IGNORE
from manyseg.losses.mask import focal_terms

__all__ = [
    "Matches",
    "SegmentTargets",
    "match",
    "pair_costs",
    "resize_nearest",
    "targets_of_labels",
    "targets_of_segments",
]


class SegmentTargets(NamedTuple):
    """The true segments of a batch; where an image has fewer than T, the classes of the others are IGNORE."""

    ids: Int[Tensor, "B H W"]
    """Each pixel's segment, or IGNORE."""
    classes: Int[Tensor, "B T"]


class Matches(NamedTuple):
    """N pairs of a query and a segment, ordered by image, on the device; `counts` are the pairs of each image."""

    block: Int[Tensor, " N"]
    image: Int[Tensor, " N"]
    query: Int[Tensor, " N"]
    segment: Int[Tensor, " N"]
    counts: tuple[int, ...]
    segments: int
    """The number of segments of all images; blocks do not multiply it."""
    left_out: int
    """The number of segments that have no query, since there were too few queries."""


def targets_of_labels(labels: Int[Tensor, "B H W"], classes: int) -> SegmentTargets:
    """Return one segment for each class that is present; its id is the position of the class."""
    positions = torch.arange(classes, device=labels.device).expand(len(labels), -1)
    return SegmentTargets(labels, torch.where(_present(labels, classes), positions, IGNORE))


def targets_of_segments(
    ids: Int[Tensor, "B H W"], classes: Int[Tensor, "B T"], labels: Int[Tensor, "B H W"]
) -> SegmentTargets:
    """Return the given segments without those that have no pixel left; `labels` are the classes of the pixels."""
    ids = torch.where(labels == IGNORE, IGNORE, ids)
    return SegmentTargets(ids, torch.where(_present(ids, classes.shape[1]), classes, IGNORE))


def _present(ids: Int[Tensor, "B H W"], count: int) -> Tensor:
    seen = torch.zeros(len(ids), count + 1, dtype=torch.bool, device=ids.device)
    index = torch.where(ids < 0, count, ids).flatten(1).long()
    return seen.scatter_(1, index, torch.ones_like(index, dtype=torch.bool))[:, :count]


@torch.no_grad()
def pair_costs(
    probability: Float[Tensor, "B Q K"],
    logits: Float[Tensor, "B Q P"],
    ids: Int[Tensor, "B P"],
    classes: Int[Tensor, "B T"],
    focal_weight: float,
    dice_weight: float,
) -> Float[Tensor, "B Q T"]:
    """Return `-p(class) + a focal + b dice` of every query and segment (LMSeg, equation 5); inf for absent segments.

    The class term is a probability, not its logarithm. Pixels of IGNORE do not count.
    """
    logits = logits.float()
    segments = torch.arange(classes.shape[1], device=ids.device)[:, None]
    masks = (ids[:, None] == segments).to(logits.dtype)
    valid = (ids != IGNORE).to(logits.dtype)[..., None]
    inside, outside = focal_terms(logits)
    p = logits.sigmoid()
    # All segments in one product: a pixel adds `outside` and, if it is inside of the segment, `inside - outside`.
    difference, overlap = torch.cat([inside - outside, p], 1).bmm(masks.transpose(1, 2)).chunk(2, 1)
    elsewhere, area = outside.bmm(valid), p.bmm(valid)
    focal = (difference + elsewhere) / valid.sum(1, keepdim=True).clamp(min=1)
    dice = 1 - (2 * overlap + 1) / (area + masks.sum(2)[:, None] + 1)
    index = classes.clamp(min=0)[:, None].expand(-1, logits.shape[1], -1)
    cost = focal_weight * focal + dice_weight * dice - probability.float().gather(2, index)
    # The trainer reports losses that are not finite; scipy's error about such costs would be less clear.
    return torch.nan_to_num(cost, 1e9, 1e9, -1e9).masked_fill(classes[:, None] == IGNORE, torch.inf)


def match(costs: Sequence[Float[Tensor, "L _ Q _"]]) -> list[Matches]:
    """Match the queries and segments of every block and image at the least sum of costs; one result for each batch.

    The batches may differ in B and T. Segments of infinite cost are absent.
    """
    if not costs:
        return []
    device = costs[0].device
    host = torch.cat([c.flatten() for c in costs]).cpu().numpy()
    matched, found = [], []
    ends = np.cumsum([c.numel() for c in costs])
    for cost, end in zip(costs, ends, strict=True):
        pairs, counts, segments, left_out = _match(host[end - cost.numel() : end].reshape(cost.shape))
        matched.append(pairs)
        found.append((counts, segments, left_out))
    moved = torch.from_numpy(np.concatenate(matched, 1)).to(device, non_blocking=True)
    parts = torch.split(moved, [t.shape[1] for t in matched], 1)
    return [Matches(p[0], p[1], p[2], p[3], *rest) for p, rest in zip(parts, found, strict=True)]


def _match(cost: Float[np.ndarray, "L B Q T"]) -> tuple[np.ndarray, tuple[int, ...], int, int]:
    """Return Int[4, N], rows of (block, image, query, segment) ordered by image; then the last fields of `Matches`."""
    blocks, images, queries, _ = cost.shape
    rows, counts, segments, left_out = [np.zeros((4, 0), np.int64)], [], 0, 0
    for b in range(images):
        there = np.flatnonzero(np.isfinite(cost[0, b, 0]))
        segments += len(there)
        left_out += max(0, len(there) - queries)
        counts.append(blocks * min(queries, len(there)))
        for block in range(blocks):
            q, t = linear_sum_assignment(cost[block, b][:, there])
            rows.append(np.stack([np.full_like(q, block), np.full_like(q, b), q, there[t]]))
    return np.concatenate(rows, 1), tuple(counts), segments, left_out


def resize_nearest(ids: Int[Tensor, "B H W"], size: tuple[int, int]) -> Int[Tensor, "B h w"]:
    """Resize a map of segments to `size`, taking the nearest pixel as torch's interpolation does."""
    rows, columns = (torch.arange(n, device=ids.device) * m // n for n, m in zip(size, ids.shape[1:], strict=True))
    return ids[:, rows[:, None], columns]
