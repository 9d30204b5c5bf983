"""One image with its annotation, and a batch of images of ONE dataset in that dataset's own labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from manyseg.data.annotation import Annotation, stack
from manyseg.labels import LabelSpace

__all__ = ["Batch", "Sample", "collate", "image_tensor"]


class Sample(NamedTuple):
    """One image and what its dataset says about it; `id` names the image in messages."""

    id: str
    image: UInt8[Tensor, "3 H W"]
    annotation: Annotation


class Batch(NamedTuple):
    """Images of one dataset; a training step is a tuple of these.

    Images stay 8-bit RGB until the network normalises them: a quarter of the bytes to move.
    `weight` multiplies this dataset's losses. `expected` are the images of this dataset in a step on average, over all
    processes: those here where every step has as many.
    """

    space: LabelSpace
    ids: tuple[str, ...]
    image: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]
    annotation: Annotation
    weight: float = 1.0
    expected: float | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Move all tensors to `device`."""
        annotation = type(self.annotation)(*(t.to(device, non_blocking=True) for t in self.annotation))
        return self._replace(image=self.image.to(device, non_blocking=True), annotation=annotation)


def image_tensor(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[Tensor, "3 H W"]:
    """Return an image as networks take it, in the same memory: a crop is cheaper to copy than the image."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def collate(space: LabelSpace, samples: Sequence[Sample], weight: float = 1.0, expected: float | None = None) -> Batch:
    """Stack samples of equal size into a batch of `space`."""
    return Batch(
        space,
        tuple(s.id for s in samples),
        torch.stack([s.image.as_subclass(Tensor) for s in samples]),
        stack([s.annotation for s in samples]),
        weight,
        expected,
    )
