"""Example crops of classes, cut out of a dataset's labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from manyseg.data import Folder
from manyseg.data.annotation import Dense, Segments
from manyseg.labels import ClassKey

__all__ = ["example_crops"]

MAX_IMAGES = 60
"""The number of a dataset's images, evenly spread over it, that are searched for examples."""

CROPS = 3
"""The number of crops of each class."""

MARGIN = 0.15
"""The margin of a crop around its class, as a share of the class's longer side."""

DIMMED = 0.3
"""How bright the pixels of other classes are in a crop; they are grey, too."""


def example_crops(folders: Sequence[Folder]) -> Mapping[ClassKey, list[UInt8[np.ndarray, "_ _ 3"]]]:
    """Cut out the regions of every class where it is largest among some images of its dataset, the largest first.

    The pixels of the class are as they are, all others dark and grey.
    """
    found: dict[ClassKey, list[tuple[int, np.ndarray]]] = {}
    for folder in folders:
        for index in sorted({round(i) for i in np.linspace(0, len(folder) - 1, min(MAX_IMAGES, len(folder)))}):
            sample = folder.example(index)
            if not isinstance(sample.annotation, Dense | Segments):
                break
            labels = sample.annotation.labels.numpy()
            for d in np.unique(labels[labels >= 0]):
                best = found.setdefault((folder.space.name, folder.space.names[d]), [])
                size = int((labels == d).sum())
                if len(best) == CROPS and size <= best[-1][0]:
                    continue
                best.append((size, _cut(sample.image.numpy().transpose(1, 2, 0), labels == d)))
                best.sort(key=lambda item: -item[0])
                del best[CROPS:]
    return {key: [crop for _, crop in best] for key, best in found.items()}


def _cut(image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "_ _ 3"]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    pad = round(MARGIN * max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
    top, left = max(rows[0] - pad, 0), max(columns[0] - pad, 0)
    region = slice(top, rows[-1] + pad + 1), slice(left, columns[-1] + pad + 1)
    crop = image[region]
    dark = (crop.mean(2, keepdims=True) * DIMMED).astype(np.uint8)
    return np.where(mask[region][..., None], crop, dark)
