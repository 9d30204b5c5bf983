"""What a model says of one image.

Axes: D classes of the label space, h w feature resolution, H W the image's own size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from manyseg.data.files import write_image
from manyseg.errors import UserError
from manyseg.inference.segments import SegmentMap
from manyseg.labels import IGNORE, LabelSpace
from manyseg.prediction.drawing import mask_image, overlay

__all__ = ["Prediction"]


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image.

    `labels` is Int64[H, W] at the image's own size: positions in `space`, or `IGNORE` (-1) where no class is possible.
    `image` is the input of the model, which may be smaller than the file.
    `scores`, only if requested, is Float32[D, h, w] at feature resolution; their softmax over D gives probabilities,
    and -inf excludes a class. `confidence`, where scores or several label spaces were requested, is Float32[h, w]: the
    probability of the most probable class, 0 where every class is excluded, and None for a hierarchy, whose classes
    hold each other. `segments`, only if requested, are things and stuff.
    """

    labels: Int[np.ndarray, "H W"]
    space: LabelSpace
    image: UInt8[Tensor, "3 _ _"] = field(repr=False)
    scores: Float[np.ndarray, "D h w"] | None = field(default=None, repr=False)
    segments: SegmentMap | None = field(default=None, repr=False)
    confidence: Float[np.ndarray, "h w"] | None = field(default=None, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, by position."""
        return self.space.names

    @property
    def colors(self) -> UInt8[np.ndarray, "D 3"]:
        """The colours of the classes, by position."""
        return self.space.colors

    @property
    def shares(self) -> Mapping[str, float]:
        """The share of the image's pixels of every class that occurs, largest first."""
        counts = np.bincount(self.labels[self.labels != IGNORE], minlength=len(self.space))
        order = np.argsort(-counts, kind="stable")
        return {self.names[i]: float(counts[i]) / self.labels.size for i in order if counts[i]}

    def save(self, path: str | Path) -> Path:
        """Write the label map as an index PNG with the classes' colours, and return its path.

        Values are positions in `space`; `IGNORE` is 255, or 65535 in a file of 16 bits for more than 256 classes.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UserError(f"{path}: label maps are written as PNG, which loses nothing; end the name in .png")
        write_image(path, mask_image(torch.from_numpy(self.labels), self.space))
        return path

    def overlay(self) -> Image.Image:
        """Return the image with the label map over it and a legend of the classes that occur, as a Pillow image."""
        return overlay(self.image, torch.from_numpy(self.labels), self.space)
