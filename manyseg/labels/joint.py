"""The classes of several datasets as one list: the order of rows wherever all datasets share one matrix.

Axes: T classes of all datasets together, in the order of the datasets and of their classes; U unified nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from manyseg.labels.spaces import ClassKey, LabelSpace

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

__all__ = ["JointClasses"]


@dataclass(frozen=True)
class JointClasses:
    """The classes of `spaces` in one list of T, dataset after dataset."""

    spaces: tuple[LabelSpace, ...]

    def __len__(self) -> int:
        return sum(self.sizes)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of classes of each dataset."""
        return tuple(len(s) for s in self.spaces)

    @cached_property
    def rows(self) -> Mapping[str, slice]:
        """The positions that each dataset's classes have in the list, by the dataset's name."""
        ends = np.cumsum(self.sizes).tolist()
        return {s.name: slice(end - len(s), end) for s, end in zip(self.spaces, ends, strict=True)}

    @cached_property
    def keys(self) -> tuple[ClassKey, ...]:
        """(dataset, class) at each position."""
        return tuple((s.name, n) for s in self.spaces for n in s.names)

    @cached_property
    def positions(self) -> Mapping[ClassKey, int]:
        """The position of each (dataset, class)."""
        return {key: i for i, key in enumerate(self.keys)}

    @cached_property
    def dataset(self) -> Int[np.ndarray, " T"]:
        """The position in `spaces` of each class's dataset."""
        return np.repeat(np.arange(len(self.spaces)), self.sizes)

    @cached_property
    def differ(self) -> Bool[np.ndarray, "T T"]:
        """True for two classes of different datasets."""
        different: Bool[np.ndarray, "T T"] = self.dataset[:, None] != self.dataset[None]
        return different
