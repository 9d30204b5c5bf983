"""How often every class was seen in training: pixels counted at each step, from which label maps can be adjusted.

A classifier that is trained on classes of 40 and of 0.1 % of the pixels calls the rare one too seldom for a mean over
classes. Subtracting a part of the log of its share from a class's log-probability balances that: the post-hoc logit
adjustment of Menon et al., "Long-tail learning via logit adjustment" (ICLR 2021, section 4.1).

Axes: T classes of all datasets, D classes of one label space, U unified nodes, B images, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from manyseg.data.annotation import Dense, Segments
from manyseg.data.batch import Batch
from manyseg.labels import IGNORE, JointClasses, Taxonomy

__all__ = ["STRIDE", "class_log_shares", "count_pixels", "node_shares", "related_log_shares"]

STRIDE = 4
"""Pixels are counted on every fourth row and column."""


@torch.no_grad()
def count_pixels(classes: JointClasses, batches: Sequence[Batch], counts: Int64[Tensor, " T"]) -> None:
    """Add the labelled pixels of a step to `counts`, those of all processes, without waiting for the device.

    Boxes and tags are not counted.
    """
    found = torch.zeros_like(counts)
    for batch in batches:
        if isinstance(batch.annotation, Dense | Segments):
            labels = batch.annotation.labels[:, ::STRIDE, ::STRIDE].flatten().long()
            first = classes.rows[batch.space.name].start
            found.scatter_add_(0, labels.clamp(min=0) + first, (labels != IGNORE).to(found.dtype))
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(found)
    counts += found


def class_log_shares(counts: Int64[Tensor, " D"]) -> Float[Tensor, " D"]:
    """Return the log of each class's share of the pixels of its dataset; 0 for a class that has none."""
    return _log(counts / counts.sum().clamp(min=1))


def node_shares(taxonomy: Taxonomy, counts: Int64[Tensor, " T"]) -> Float[Tensor, " U"]:
    """Return the share of pixels that each unified node has: the mean over the datasets that have counts and label it.

    A class's pixels are shared by its nodes alike. Nodes that no counted dataset labels have 0.
    """
    relation = torch.from_numpy(taxonomy.joint_relation).to(counts.device, torch.float32)
    alike = relation / relation.sum(1, keepdim=True).clamp(min=1)
    total, datasets = torch.zeros_like(relation[0]), torch.zeros_like(relation[0])
    for rows in taxonomy.classes.rows.values():
        pixels = counts[rows].sum()
        total += (counts[rows] / pixels.clamp(min=1)) @ alike[rows]
        datasets += (relation[rows].sum(0) > 0) & (pixels > 0)
    return total / datasets.clamp(min=1)


def related_log_shares(shares: Float[Tensor, " U"], relation: Bool[Tensor, "D U"]) -> Float[Tensor, " D"]:
    """Return the log of the summed share of each class's nodes; 0 where that is nothing."""
    return _log(relation.to(shares.device, shares.dtype) @ shares)


def _log(shares: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    return torch.where(shares > 0, shares, 1.0).log()
