"""How often classes occur, and what follows for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.table import Table

from manyseg.data.finding import Finding
from manyseg.data.inspection import Inspection
from manyseg.labels import LabelSpace

if TYPE_CHECKING:
    from jaxtyping import Int

__all__ = ["Histogram", "absences", "single"]


class Histogram(NamedTuple):
    """How often each class occurs in a split: pixels (boxes, for boxes; images, for tags), and images."""

    pixels: Int[np.ndarray, " D"]
    images: Int[np.ndarray, " D"]

    @classmethod
    def of(cls, space: LabelSpace, inspections: Sequence[Inspection]) -> Histogram:
        """Add up what was seen of a split's images."""
        out = cls(np.zeros(len(space), np.int64), np.zeros(len(space), np.int64))
        for inspection in inspections:
            for d, pixels in inspection.pixels.items():
                out.pixels[d] += pixels
                out.images[d] += 1
        return out

    def table(self, space: LabelSpace, split: str) -> Table:
        """Show it, the most frequent class first."""
        table = Table(title=f"{space.name}, split '{split}'", box=None, header_style="bold")
        table.add_column("class")
        for name in ("pixels", "share", "images"):
            table.add_column(name, justify="right")
        total = max(int(self.pixels.sum()), 1)
        for d in np.argsort(-self.pixels, kind="stable"):
            table.add_row(space.names[d], str(self.pixels[d]), f"{self.pixels[d] / total:.2%}", str(self.images[d]))
        return table


def absences(space: LabelSpace, histograms: Mapping[str, Histogram], train: str = "train") -> Iterator[Finding]:
    """Say which classes never occur, or not in split `train`."""
    seen = {split: h.images > 0 for split, h in histograms.items() if h.images.any()}
    if not seen:
        return
    anywhere: np.ndarray = np.any(list(seen.values()), axis=0)
    missing = ~anywhere
    if missing.any():
        fix = "check the values in the card, or remove what the dataset does not have"
        yield Finding("warning", "class never occurs", ", ".join(seen), fix, _names(space, missing))
    missing = anywhere & ~seen.get(train, anywhere)
    if missing.any():
        fix = "a model cannot learn it from here: expect a score of 0, or choose other splits"
        yield Finding("warning", f"class occurs, but not in split '{train}'", train, fix, _names(space, missing))


def single(space: LabelSpace, histogram: Histogram, split: str) -> Iterator[Finding]:
    """Say where a single class is all that masks of the split label."""
    seen = histogram.images > 0
    if seen.sum() == 1:
        what = "one class is all that is labelled, so that a model trained on this dataset alone learns nothing"
        fix = "give the other pixels a class (of background), instead of ignoring them, or train with other datasets"
        yield Finding("warning", what, split, fix, _names(space, seen))


def _names(space: LabelSpace, classes: np.ndarray) -> str:
    return ", ".join(space.names[d] for d in np.flatnonzero(classes))
