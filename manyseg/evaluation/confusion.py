"""Confusion matrices, and IoU and accuracy from them.

Axes: D classes of a label space, H W pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from manyseg.labels import LabelSpace

__all__ = ["Confusion", "add_pairs", "count_pairs"]


def count_pairs(
    truth: Int[Tensor, "*pixels"], predicted: Int[Tensor, "*pixels"], rows: int, columns: int
) -> Int64[Tensor, "{rows} {columns}+1"]:
    """Count the pixels of every pair (truth, prediction), on their device.

    Pixels whose truth is IGNORE are not counted; a prediction of IGNORE ("no class") is the last column.
    """
    # Faster than selecting by a mask: row and column 0 are IGNORE (-1); row 0 is dropped, column 0 becomes the last.
    pairs = torch.add(predicted.int(), truth.int(), alpha=columns + 1).add_(columns + 2)
    counts = torch.bincount(pairs.flatten(), minlength=(rows + 1) * (columns + 1)).view(rows + 1, columns + 1)
    return counts[1:].roll(-1, 1)


def add_pairs(
    counts: Int64[Tensor, "rows columns"], truth: Int[Tensor, "*pixels"], predicted: Int[Tensor, "*pixels"]
) -> None:
    """Add the pixels of every pair to `counts`, in place; its columns are those of `count_pairs`.

    Where there are more pairs than pixels, the table is touched only at pairs that occur.
    """
    rows, columns = counts.shape
    if truth.numel() > counts.numel():
        counts += count_pairs(truth, predicted, rows, columns - 1)
        return
    column = torch.where(predicted < 0, columns - 1, predicted).long()
    place = truth.long().clamp(min=0) * columns + column
    counts.view(-1).scatter_add_(0, place.flatten(), (truth >= 0).long().flatten())


@dataclass(frozen=True)
class Confusion:
    """Pixels of every true class (row) by predicted class (column) of one label space.

    The last column counts pixels that were given no class. IoU is in 0..1; NaN marks a class that occurs neither in
    the truth nor in the prediction, and is left out of the mean. A class that occurs but cannot be predicted has IoU 0
    and is part of the mean.
    """

    space: LabelSpace
    counts: Int64[np.ndarray, "D D+1"]

    def __post_init__(self) -> None:
        expected = (len(self.space), len(self.space) + 1)
        if self.counts.shape != expected or self.counts.dtype != np.int64:
            found = f"{self.counts.dtype}{list(self.counts.shape)}"
            raise ValueError(f"counts of '{self.space.name}' are {found}, expected int64{list(expected)}")

    @classmethod
    def of(cls, space: LabelSpace, truth: Int[Tensor, "*pixels"], predicted: Int[Tensor, "*pixels"]) -> Confusion:
        """Count two label maps of equal shape, positions in `space` or IGNORE."""
        return cls(space, count_pairs(truth, predicted, len(space), len(space)).cpu().numpy())

    def __add__(self, other: Confusion) -> Confusion:
        if self.space != other.space:
            raise ValueError(f"confusions of '{self.space.name}' and '{other.space.name}' cannot be added")
        return Confusion(self.space, self.counts + other.counts)

    @property
    def matrix(self) -> Int64[np.ndarray, "D D"]:
        """The counts without the column of pixels that were given no class."""
        return self.counts[:, :-1]

    @property
    def pixels(self) -> Int64[np.ndarray, " D"]:
        """Labelled pixels of every class."""
        counts: np.ndarray = self.counts.sum(1)
        return counts

    @cached_property
    def iou(self) -> Float[np.ndarray, " D"]:
        """Intersection over union of every class; NaN for a class absent from truth and prediction."""
        hits = np.diagonal(self.counts).astype(np.float64)
        union = self.pixels + self.counts[:, :-1].sum(0) - hits
        out = np.full(len(self.space), np.nan)
        np.divide(hits, union, out=out, where=union > 0)
        return out

    @property
    def miou(self) -> float:
        """Arithmetic mean of the IoU of the classes that occur; NaN if none does."""
        present = self.iou[~np.isnan(self.iou)]
        return float(present.mean()) if len(present) else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of the labelled pixels whose class is predicted correctly; NaN if there is none."""
        total = int(self.counts.sum())
        return float(np.trace(self.matrix) / total) if total else float("nan")

    def without(self, names: Collection[str]) -> Confusion:
        """Return the counts without the pixels of some classes, and without these classes as predictions."""
        kept = [i for i, name in enumerate(self.space.names) if name not in names]
        if not kept:
            raise ValueError(f"no class of '{self.space.name}' would be left")
        space = LabelSpace(self.space.name, tuple(self.space.classes[i] for i in kept))
        return Confusion(space, self.counts[np.ix_(kept, [*kept, len(self.space)])])

    @property
    def absent(self) -> Sequence[str]:
        """Names of the classes that occur neither in the truth nor in the prediction."""
        return [n for n, iou in zip(self.space.names, self.iou, strict=True) if np.isnan(iou)]
