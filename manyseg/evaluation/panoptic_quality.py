"""Panoptic quality: PQ, SQ and RQ (Kirillov et al. 2019).

Axes: D classes, N segments of an image, H W native size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from manyseg.inference.segments import SegmentMap
from manyseg.labels import IGNORE, LabelSpace

__all__ = ["Panoptic", "Quality", "count_segments"]

MATCH_IOU = 0.5
"""A true and a found segment match above this IoU."""


def count_segments(
    ids: Int[Tensor, "H W"],
    classes: Int[Tensor, " N"],
    found: SegmentMap,
    space_size: int,
) -> Float64[np.ndarray, "D 4"]:
    """Return the true positives, the sum of their IoU, the false positives and the false negatives of each class.

    The rules are those of the panoptic API: pixels of no true segment (IGNORE: unlabelled, and crowds) are in no union,
    and a predicted segment that consists mostly of them is not counted as an error. Here this holds for crowds of any
    class, in the API only for crowds of the segment's own class.
    """
    true, n = np.append(classes.numpy(), IGNORE), len(found.classes)
    t = torch.where(ids < 0, len(classes), ids).long()
    p = torch.where(found.ids < 0, n, found.ids).long()
    pairs = torch.bincount((t * (n + 1) + p).flatten(), minlength=len(true) * (n + 1)).view(-1, n + 1).numpy()
    # A segment that is padding or has no label counts as no segment too.
    labelled = true != IGNORE
    void, areas = pairs[~labelled].sum(0)[:n], pairs.sum(0)[:n]
    true, inside = true[labelled], pairs[labelled]
    union = inside.sum(1)[:, None] + (areas - void) - inside[:, :n]
    iou = inside[:, :n] / np.maximum(union, 1)
    predicted = found.classes.numpy()
    hit = (iou > MATCH_IOU) & (true[:, None] == predicted)
    out = np.zeros((space_size, 4))
    rows, columns = np.nonzero(hit)
    np.add.at(out, (true[rows], 0), 1)
    np.add.at(out, (true[rows], 1), iou[rows, columns])
    wrong = ~hit.any(0) & (areas > 0) & (void <= MATCH_IOU * areas)
    np.add.at(out, (predicted[wrong], 2), 1)
    missed = ~hit.any(1) & (inside.sum(1) > 0)
    np.add.at(out, (true[missed], 3), 1)
    return out


class Quality(NamedTuple):
    """Means over the classes that occur in labels or predictions, in 0..1; NaN where none does."""

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
        chosen = np.array([things is None or c.thing == things for c in self.space.classes])
        rows = self.by_class[chosen & ~np.isnan(self.by_class[:, 0])]
        if not len(rows):
            return Quality(float("nan"), float("nan"), float("nan"), 0)
        pq, sq, rq = rows.mean(0).tolist()
        return Quality(pq, sq, rq, len(rows))
