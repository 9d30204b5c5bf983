"""Files of label maps: index images, overlays, confidence, scores, and the outlines of areas.

Axes: D classes, h w feature resolution, H W the image's own size.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from manyseg import atomic
from manyseg.data.files import write_image
from manyseg.errors import UserError
from manyseg.labels import IGNORE
from manyseg.prediction.drawing import mask_image
from manyseg.prediction.output import Output
from manyseg.prediction.prediction import Prediction

__all__ = ["Confidence", "GeoJSON", "Masks", "Overlays", "ScoreArrays"]


class Masks(Output):
    """`masks/<name>.png`: an index image of the classes' values, with a palette where they fit 8 bits."""

    def path(self, name: str) -> Path:
        """Return where the label map of an image is."""
        return self.out / "masks" / f"{name}.png"

    def write(self, name: str, found: Prediction) -> None:
        """Write the label map."""
        write_image(self.path(name), mask_image(torch.from_numpy(found.labels), self.space, self.values))


class Overlays(Output):
    """`overlays/<name>.jpg`: the image with its label map over it and a legend."""

    def path(self, name: str) -> Path:
        """Return where the overlay of an image is."""
        return self.out / "overlays" / f"{name}.jpg"

    def write(self, name: str, found: Prediction) -> None:
        """Draw and write the overlay."""
        write_image(self.path(name), found.overlay(), quality=90)


class Confidence(Output):
    """`confidence/<name>.png`: the probability of the most probable class, 0 to 1 as 0 to 255.

    It is computed at feature resolution and interpolated.
    """

    needs_scores = True

    def path(self, name: str) -> Path:
        """Return where the confidence of an image is."""
        return self.out / "confidence" / f"{name}.png"

    def write(self, name: str, found: Prediction) -> None:
        """Write the probabilities."""
        height, width = found.labels.shape
        assert found.confidence is not None
        large = Image.fromarray(found.confidence).resize((width, height), Image.Resampling.BILINEAR)
        write_image(self.path(name), Image.fromarray((255 * np.asarray(large)).round().astype(np.uint8)))


class ScoreArrays(Output):
    """`scores/<name>.npy`: Float16[D, h, w] at feature resolution, whose softmax over D gives probabilities."""

    needs_scores = True

    def path(self, name: str) -> Path:
        """Return where the scores of an image are."""
        return self.out / "scores" / f"{name}.npy"

    def write(self, name: str, found: Prediction) -> None:
        """Write the scores; 16 bits reach to 65504, so that larger ones are cut off there."""
        finite = np.float16(np.finfo(np.float16).max)
        scores = _scores(found)
        small = np.where(np.isneginf(scores), -np.inf, scores.clip(-finite, finite)).astype(np.float16)
        buffer = io.BytesIO()
        np.save(buffer, small)
        atomic.write(self.path(name), buffer.getvalue())


class GeoJSON(Output):
    """`geojson/<name>.geojson`: polygons of every connected area of a class, in pixels: x right, y down.

    Holes are kept. A property has the class's name, its value, its colour, and the area in pixels.
    """

    def path(self, name: str) -> Path:
        """Return where the polygons of an image are."""
        return self.out / "geojson" / f"{name}.geojson"

    def write(self, name: str, found: Prediction) -> None:
        """Trace and write the polygons."""
        try:
            from rasterio import features
        except ImportError:
            raise UserError('polygons need rasterio; pip install "manyseg[bands]"') from None
        inside = found.labels != IGNORE
        labels = np.where(inside, found.labels, 0).astype(np.int32)
        shapes = []
        for geometry, value in features.shapes(labels, mask=inside):
            c = int(value)
            properties = {
                "class": self.space.names[c],
                "value": self.values.classes[c],
                "color": self.space.hex_colors[c],
                "area": _area(geometry["coordinates"]),
            }
            shapes.append({"type": "Feature", "properties": properties, "geometry": geometry})
        tree = {"type": "FeatureCollection", "features": shapes}
        atomic.write(self.path(name), json.dumps(tree, ensure_ascii=False) + "\n")


def _area(rings: Sequence[Sequence[tuple[float, float]]]) -> int:
    """Return the area of a polygon less that of its holes, in pixels."""
    areas = []
    for ring in rings:
        x, y = np.array(ring).T
        areas.append(abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2)
    return round(areas[0] - sum(areas[1:]))


def _scores(found: Prediction) -> Float[np.ndarray, "D h w"]:
    assert found.scores is not None
    return found.scores
