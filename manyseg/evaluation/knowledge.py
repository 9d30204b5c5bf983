"""Knowledgeability: how many semantic concepts a model recognises.

HTSS (Meletis and Dubbelman, arXiv 2301.07634) measures models by performance, generalisation and knowledgeability, the
number of concepts that are recognised. Its formula is not known to us; this one is ours. A concept is a set of unified
nodes to which a class of a training dataset is related; classes with the same set are the same concept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manyseg.labels import Taxonomy

__all__ = ["THRESHOLDS", "Knowledge"]

THRESHOLDS = tuple(t / 20 for t in range(1, 20))
"""The IoUs at which the curve is reported; its area is exact, and does not depend on them."""


@dataclass(frozen=True)
class Knowledge:
    """The IoU, in 0..1, of every concept that occurs in the evaluation, and how many concepts there are in all."""

    iou: Mapping[str, float]
    concepts: int

    @classmethod
    def of(cls, taxonomy: Taxonomy, ious: Mapping[str, Sequence[float]]) -> Knowledge:
        """Average the IoUs of the classes of each concept.

        `ious[dataset]` has one value for each class, NaN for an absent one. A concept has the name of its unified node
        or, if it has several, of its first class.
        """
        found: dict[tuple[bool, ...], list[float]] = {}
        names: dict[tuple[bool, ...], str] = {}
        for space in taxonomy.spaces:
            values = ious.get(space.name, [math.nan] * len(space))
            for name, row, iou in zip(space.names, taxonomy.relations[space.name], values, strict=True):
                nodes = np.flatnonzero(row)
                key = tuple(row.tolist())
                own = taxonomy.unified.names[nodes[0]] if len(nodes) == 1 else f"{space.name}:{name}"
                names.setdefault(key, own)
                found.setdefault(key, []).extend([] if math.isnan(iou) else [float(iou)])
        return cls({names[k]: sum(v) / len(v) for k, v in found.items() if v}, len(found))

    def count(self, threshold: float) -> int:
        """Count the concepts whose IoU is at least `threshold`."""
        return sum(iou >= threshold for iou in self.iou.values())

    @property
    def area(self) -> float:
        """The area under the curve of `count` over thresholds from 0 to 1: the sum of the IoUs, in concepts."""
        return sum(self.iou.values())

    def to_json(self) -> dict[str, Any]:
        """Return the curve, its area, and how many concepts there are and were measured."""
        return {
            "concepts": self.concepts,
            "measured": len(self.iou),
            "area": self.area,
            "curve": [[t, self.count(t)] for t in THRESHOLDS],
        }
