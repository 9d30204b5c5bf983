"""What the heads of one model call the pixels of other datasets: confusion matrices as rates.

Axes: T classes of all datasets together, D_a and D_b classes of datasets a and b, G groups of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manyseg.errors import UserError
from manyseg.labels import JointClasses, LabelSpace

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["ConfusionRates", "Counts", "confusion_rates", "read_confusion", "recall_matrix", "sums_by_group"]

GROUPS = 64
"""Groups of which rows are copied at a time; there can be thousands."""

Counts = Mapping[tuple[str, str], np.ndarray]
"""Confusion matrices [D_a, D_b] by (a, b): [i, j] are the pixels of class i of dataset a that b's head called j."""


@dataclass(frozen=True)
class ConfusionRates:
    """Confusion matrices normalised in both directions; each says in its way that class x is predicted as class y."""

    given_true: Float[np.ndarray, "T T"]
    """[x, y]: of the pixels of x, the part that the head of y's dataset predicts as y."""
    given_predicted: Float[np.ndarray, "T T"]
    """[x, y]: of the pixels of y's dataset that the head of x's dataset predicts as x, the part that is truly y."""
    known: Bool[np.ndarray, "T T"]
    """Where x has pixels and its dataset was seen by the head of y's; elsewhere both rates are 0 and say nothing."""


def confusion_rates(
    classes: JointClasses, counts: Counts, spaces: Sequence[LabelSpace] | None = None
) -> ConfusionRates:
    """Normalise confusion matrices; a missing matrix and a class without pixels are no evidence.

    `spaces` have the classes of each dataset in the order of the matrices, if it is not that of `classes`. Raises
    UserError for a matrix of unknown datasets or wrong shape, and for negative or non-finite counts.
    """
    T = len(classes)
    given = {s.name: s for s in (classes.spaces if spaces is None else spaces)}
    order = {s.name: [given[s.name].positions[n] for n in s.names] for s in classes.spaces}
    given_true, given_predicted = np.zeros((T, T), np.float32), np.zeros((T, T), np.float32)
    known = np.zeros((T, T), bool)
    for (a, b), matrix in counts.items():
        if a not in given or b not in given:
            raise UserError(
                f"there is a confusion of '{a}' by the head of '{b}', but the datasets are: {', '.join(given)}; "
                "give those of these alone"
            )
        sizes = (len(given[a]), len(given[b]))
        found = _checked(matrix, a, b, sizes, f"the confusion of '{a}' by the head of '{b}'")[order[a]][:, order[b]]
        rows, columns = classes.rows[a], classes.rows[b]
        pixels = found.sum(1, keepdims=True)
        given_true[rows, columns] = found / np.maximum(pixels, 1)
        known[rows, columns] = pixels > 0
        given_predicted[columns, rows] = (found / np.maximum(found.sum(0, keepdims=True), 1)).T
    return ConfusionRates(given_true, given_predicted, known)


def _checked(matrix: np.ndarray, a: str, b: str, sizes: tuple[int, int], what: str) -> Float[np.ndarray, "D_a D_b"]:
    if matrix.shape != sizes:
        raise UserError(
            f"{what} is {list(matrix.shape)}, but '{a}' has {sizes[0]} classes and '{b}' {sizes[1]}; "
            f"give one row for each class of '{a}' and one column for each of '{b}'"
        )
    if matrix.dtype.kind not in "biuf" or not np.isfinite(matrix).all() or (matrix < 0).any():
        raise UserError(f"{what} has negative or non-finite counts, or none that are numbers; count again")
    return matrix.astype(np.float64)


def recall_matrix(rates: ConfusionRates, classes: JointClasses) -> Float[np.ndarray, "T T"]:
    """Return S of the published merge rule (`merge`).

    On the diagonal is the recall of each class by its own head, and besides the rates for classes of other datasets.
    """
    recall = rates.given_true.astype(np.float64)
    return np.where(classes.differ | np.eye(len(classes), dtype=bool), recall, 0.0)


def sums_by_group(
    values: np.ndarray, group: Int[np.ndarray, " T"], use: Bool[np.ndarray, "T T"] | None = None
) -> Float[np.ndarray, "G G"]:
    """Sum `values` [T, T] over all pairs of groups, or those to `use`; `group` numbers them 0 to G - 1."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 2))
    by_row = np.empty((len(starts) - 1, len(order)), np.result_type(values, np.float32))
    for g in range(0, len(by_row), GROUPS):
        first = starts[g : g + GROUPS + 1]
        rows = order[first[0] : first[-1]]
        part = values[rows] if use is None else values[rows] * use[rows]
        np.add.reduceat(part, first[:-1] - first[0], 0, by_row.dtype, by_row[g : g + GROUPS])
    sums: np.ndarray = np.add.reduceat(by_row[:, order], starts[:-1], axis=1)
    return sums


def read_confusion(path: Path, spaces: Sequence[LabelSpace]) -> dict[tuple[str, str], np.ndarray]:
    """Read an npz file of arrays named `a__b` (true dataset, dataset of the head).

    Raises UserError naming the file if it cannot be read, or if an array's name is no pair of the datasets, or can
    be read as two different ones, or if its shape or its counts are wrong.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file of confusions; correct its name") from None
    except Exception as e:  # A damaged archive can make numpy raise almost anything.
        reason = " ".join(str(e).split())
        raise UserError(f"{path}: not an npz file of arrays named a__b ({reason}); write it with numpy.savez") from None
    sizes = {s.name: len(s) for s in spaces}
    pairs: dict[str, list[tuple[str, str]]] = {}
    for pair in product(sizes, sizes):
        pairs.setdefault("__".join(pair), []).append(pair)
    out = {}
    for name, array in found.items():
        readings = pairs.get(name, [])
        if len(readings) != 1:
            either = " or ".join(f"'{a}' by the head of '{b}'" for a, b in readings)
            reason = (
                f"can mean {either}; rename one of the datasets in its card"
                if readings
                else f"is not 'a__b' of two of the datasets; they are: {', '.join(sorted(sizes))}"
            )
            raise UserError(f"{path}: confusion '{name}' {reason}")
        a, b = readings[0]
        out[a, b] = _checked(array, a, b, (sizes[a], sizes[b]), f"{path}: confusion '{name}'")
    return out
