"""What one model says on every dataset's pixels: the evidence that merging, relating and pruning read.

Axes: D classes of a dataset, U unified nodes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manyseg import atomic
from manyseg.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64, UInt64

__all__ = ["UNIFIED", "Statistics"]

UNIFIED = "unified"
"""The head that answers in unified nodes, beside the heads called by their datasets."""


@dataclass(frozen=True)
class Statistics:
    """Counts and sums over pixels, by true class, and counts over those without a label.

    A class without a pixel is no evidence of anything: its rows are 0, and nothing is divided by them.
    """

    key: str
    """What was measured: a hash of the weights, the label spaces and the test options."""
    counts: Mapping[tuple[str, str], Int64[np.ndarray, "D_a D_b"]] = field(repr=False)
    """`counts[a, b]`: truth of dataset a by the argmax of head b, a dataset's or `UNIFIED`, on a's images."""
    pixels: Mapping[str, Int64[np.ndarray, " D"]] = field(repr=False)
    """Labelled pixels of every class of a dataset."""
    sums: Mapping[str, Float64[np.ndarray, "D U"]] = field(repr=False)
    """Sum of the unified nodes' activations over the pixels of every class; empty where none were asked for."""
    unlabelled: Mapping[tuple[str, str], Int64[np.ndarray, " D_b"]] = field(repr=False)
    """`unlabelled[a, b]`: pixels of a's images without a label, by the argmax of head b; keys as of `counts`."""
    images: Mapping[str, UInt64[np.ndarray, " N"]] = field(repr=False)
    """Hashes of the paths of the images that were read: the same image must not fit a map and score it."""

    def __add__(self, other: Statistics) -> Statistics:
        """Merge what was collected on two parts of the data by one model."""
        if self.key != other.key:
            raise UserError(
                f"statistics {self.key[:12]} and {other.key[:12]} are of different models or settings; collect again"
            )
        for name in (n for n in self.images if n in other.images):
            if twice := len(np.intersect1d(self.images[name], other.images[name])):
                raise UserError(f"{twice} images of '{name}' are in both statistics; merge parts that do not overlap")
        images = {
            n: np.concatenate([s.images[n] for s in (self, other) if n in s.images])
            for n in {**self.images, **other.images}
        }
        return Statistics(
            self.key,
            _add(self.counts, other.counts),
            _add(self.pixels, other.pixels),
            _add(self.sums, other.sums),
            _add(self.unlabelled, other.unlabelled),
            images,
        )

    def mean(self, dataset: str) -> Float64[np.ndarray, "D U"]:
        """Return the mean activation of every node on the pixels of every class; NaN rows for classes without any."""
        pixels = self.pixels[dataset][:, None].astype(np.float64)
        out = np.full_like(self.sums[dataset], np.nan)
        np.divide(self.sums[dataset], pixels, out=out, where=pixels > 0)
        return out

    def write(self, path: Path) -> None:
        """Write an npz that `load` reads."""
        pairs = [*self.counts]
        meta = {"key": self.key, "pairs": pairs, "pixels": [*self.pixels], "sums": [*self.sums]}
        arrays: dict[str, Any] = {"meta": np.array(json.dumps(meta))}
        arrays |= {f"counts{i}": self.counts[pair] for i, pair in enumerate(pairs)}
        arrays |= {f"unlabelled{i}": self.unlabelled[pair] for i, pair in enumerate(pairs)}
        arrays |= {f"pixels{i}": a for i, a in enumerate(self.pixels.values())}
        arrays |= {f"images{i}": self.images[name] for i, name in enumerate(self.pixels)}
        arrays |= {f"sums{i}": a for i, a in enumerate(self.sums.values())}
        atomic.write_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what `write` wrote; raises UserError if the file is missing or is something else."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                meta = json.loads(str(arrays["meta"]))
                return cls(
                    meta["key"],
                    {(a, b): arrays[f"counts{i}"] for i, (a, b) in enumerate(meta["pairs"])},
                    {name: arrays[f"pixels{i}"] for i, name in enumerate(meta["pixels"])},
                    {name: arrays[f"sums{i}"] for i, name in enumerate(meta["sums"])},
                    {(a, b): arrays[f"unlabelled{i}"] for i, (a, b) in enumerate(meta["pairs"])},
                    {name: arrays[f"images{i}"] for i, name in enumerate(meta["pixels"])},
                )
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such file of statistics; collect them first") from None
        except Exception as e:  # A damaged archive can make numpy raise almost anything.
            reason = " ".join(str(e).split())
            raise UserError(f"{path}: not a file of statistics ({reason}); remove it and collect them anew") from None


def _add(first: Mapping[Any, np.ndarray], second: Mapping[Any, np.ndarray]) -> dict[Any, np.ndarray]:
    out = dict(first)
    for k, array in second.items():
        out[k] = out[k] + array if k in out else array
    return out
