"""Losses before they are divided: sums over pixels, segments or queries, and how many these are.

A step has batches of several datasets, on several processes. What their losses are divided by decides how much each
dataset weighs, so losses stay sums until those of all batches are there (`divide`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
import torch.distributed as dist
from jaxtyping import Float, Num
from torch import Tensor

__all__ = ["Averaging", "MeanLoss", "divide"]

Averaging: TypeAlias = Literal["dataset", "batch", "image"]
"""What a step's loss is a mean over; see `divide`."""

LEAST = 1e-6
"""Lower bound of what a loss is divided by: nothing to learn from gives 0, not a division by 0."""


@dataclass(frozen=True)
class _Term:
    key: str
    total: Float[Tensor, ""]
    count: Float[Tensor, ""]
    weight: float


@dataclass(frozen=True)
class MeanLoss:
    """A weighted sum of means, each kept as a sum over what this process has, and the number that divides it.

    Means of different batches of a step that have the same key are of the same kind: with `mean = "batch"` they become
    one mean.
    """

    terms: tuple[_Term, ...]

    @classmethod
    def of(cls, total: Float[Tensor, ""], count: Num[Tensor, ""] | float | int, key: str = "") -> MeanLoss:
        """Return the mean `total / count`; a count is a number of pixels, say, or a sum of their weights."""
        # Not `torch.tensor`, which would wait for the device.
        found = count.float() if isinstance(count, Tensor) else total.new_full((), count, dtype=torch.float32)
        return cls((_Term(key, total, found, 1.0),))

    def __add__(self, other: MeanLoss) -> MeanLoss:
        """Return the sum of both."""
        return MeanLoss(self.terms + other.terms)

    def __mul__(self, factor: float) -> MeanLoss:
        """Return this loss times a number."""
        return MeanLoss(tuple(replace(t, weight=t.weight * factor) for t in self.terms))

    def over(self, count: Num[Tensor, ""]) -> MeanLoss:
        """Return the same sums divided by another number."""
        return MeanLoss(tuple(replace(t, count=count.float()) for t in self.terms))

    def named(self, key: str) -> MeanLoss:
        """Return the same means with a key."""
        return MeanLoss(tuple(replace(t, key=key) for t in self.terms))

    def mean(self) -> Float[Tensor, ""]:
        """Return the value for one dataset alone; over all processes, which all have to call this."""
        return divide([{"": self}], [1.0], "dataset")[0][""]


def divide(
    losses: Sequence[Mapping[str, MeanLoss]],
    images: Sequence[float],
    mean: Averaging,
    weights: Sequence[float] | None = None,
    expected: Sequence[float | None] | None = None,
) -> list[dict[str, Float[Tensor, ""]]]:
    """Return the losses of a step's batches by name; their sum is what is minimised.

    `images` are the images of each batch in this process. With M_d the mean over a dataset's pixels (or segments, or
    whatever a loss counts) of the step, N_d their number and B_d its images:

    - "dataset": sum_d (B_d / E_d) M_d, where E_d are the images `expected` in a step on average, over all processes.
      All datasets weigh alike in the long run, however their images fall into steps; where every step has as many, or
      nothing is expected, the factor is 1.
    - "batch": sum_d N_d M_d / sum_d N_d: one mean over all pixels of the step.
    - "image": sum_d B_d M_d / sum_d B_d: datasets weigh as their images do.

    `weights` are further factors of M_d (dataset), or of N_d and B_d in both sums, so that a pixel or an image counts
    so many times.

    With several processes every one calls this with batches of the same datasets, and numbers are means over them. As
    gradients are averaged over processes too, the step is that of one process with all the images.
    """
    weights = [1.0] * len(losses) if weights is None else weights
    counts = _averaged([t.count for named in losses for loss in named.values() for t in loss.terms], images)
    each, shown = iter(counts), counts[len(counts) - len(images) :]
    known = [[(name, t, next(each)) for name, loss in named.items() for t in loss.terms] for named in losses]
    # What a mean of "batch" is divided by: all numbers of the same loss and key, each as often as it counts.
    whole: dict[tuple[str, str], Tensor] = {}
    for rows, weight in zip(known, weights, strict=True):
        for name, term, count in rows:
            whole[name, term.key] = whole.get((name, term.key), torch.zeros_like(count)) + weight * count
    divisors: list[Tensor | float] = list(shown)
    if mean == "image":
        whole_step = torch.stack([w * n for w, n in zip(weights, shown, strict=True)]).sum()
        divisors = [whole_step.clamp(min=LEAST)] * len(losses)
    elif expected is not None:
        divisors = [usual if n is None else n / _world() for n, usual in zip(expected, shown, strict=True)]
    out: list[dict[str, Tensor]] = []
    for d, rows in enumerate(known):
        values: dict[str, Tensor] = {name: torch.zeros_like(shown[d]) for name in losses[d]}
        for name, term, count in rows:
            if mean == "batch":
                share = 1 / whole[name, term.key].clamp(min=LEAST)
            else:
                share = shown[d] / divisors[d] / count.clamp(min=LEAST)
            values[name] = values[name] + (term.weight * weights[d] * share) * term.total
        out.append(values)
    return out


def _averaged(counts: Sequence[Float[Tensor, ""]], images: Sequence[float]) -> Float[Tensor, " N"]:
    """Return the means of numbers over all processes, in one message, on the device of the counts."""
    device = counts[0].device
    shown = torch.tensor([float(n) for n in images]).to(device, non_blocking=True)
    flat = torch.cat([torch.stack(list(counts)), shown])
    if _world() > 1:
        dist.all_reduce(flat)
        flat = flat / _world()
    return flat


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
