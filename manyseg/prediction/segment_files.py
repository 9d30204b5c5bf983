"""Files of areas with ids: COCO annotations, COCO panoptic, and instance ids.

The last two have the names of the encodings by which a card reads them, so that predictions can be used as labels.

Axes: H W the image's own size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from manyseg import atomic
from manyseg.data.files import write_image
from manyseg.errors import UserError
from manyseg.inference.segments import SegmentMap
from manyseg.labels import IGNORE, LabelSpace
from manyseg.prediction.drawing import PixelValues
from manyseg.prediction.output import Output
from manyseg.prediction.prediction import Prediction

__all__ = ["Coco", "CocoPanoptic", "InstanceIds"]


class Coco(Output):
    """`coco.json`: COCO annotations with masks as run lengths, one for each class of an image.

    With segments, from a model that tells objects apart, there is one for each segment, with its score.
    """

    values_from = 1
    at_end = ("coco.json",)

    def path(self, name: str) -> Path:
        """Return the one file."""
        return self.out / "coco.json"

    def write(self, name: str, found: Prediction) -> dict[str, Any]:
        """Return an image's entry and its annotations."""
        height, width = found.labels.shape
        image = {"file_name": name, "height": height, "width": width}
        return {"image": image, "annotations": [*_areas(found, self.values)]}

    def finish(self, written: Sequence[dict[str, Any]]) -> None:
        """Give images and annotations their numbers, and write the file."""
        images, annotations = [], []
        for number, one in enumerate(written, 1):
            images.append({"id": number, **one["image"]})
            annotations += [{"image_id": number, **a} for a in one["annotations"]]
        annotations = [{"id": i, **a} for i, a in enumerate(annotations, 1)]
        tree = {"images": images, "annotations": annotations, "categories": _categories(self.space, self.values)}
        atomic.write(self.out / "coco.json", json.dumps(tree, ensure_ascii=False) + "\n")


class CocoPanoptic(Output):
    """`panoptic/<name>.png` (colour r + 256 g + 65536 b is a segment's id) and `panoptic.json`.

    Pixels of no segment have id 0. The encoding of the same name reads them as labels.
    """

    needs_segments = True
    values_from = 1
    at_end = ("panoptic.json",)

    def path(self, name: str) -> Path:
        """Return where the ids of an image are."""
        return self.out / "panoptic" / f"{name}.png"

    def write(self, name: str, found: Prediction) -> dict[str, Any]:
        """Write an image's segments, and return its entries of the JSON file; its id is the name."""
        segments = _segments(found)
        ids = segments.ids.numpy() + 1
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1).astype(np.uint8)
        write_image(self.path(name), Image.fromarray(rgb))
        info = []
        for n, (c, score) in enumerate(zip(segments.classes.tolist(), segments.scores.tolist(), strict=True), 1):
            inside = ids == n
            info.append(
                {
                    "id": n,
                    "category_id": self.values.classes[c],
                    "area": int(inside.sum()),
                    "bbox": _box(inside),
                    "iscrowd": 0,
                    "score": score,
                }
            )
        height, width = ids.shape
        file = f"{name}.png"
        return {
            "image": {"id": name, "file_name": file, "height": height, "width": width},
            "annotation": {"image_id": name, "file_name": file, "segments_info": info},
        }

    def finish(self, written: Sequence[dict[str, Any]]) -> None:
        """Write the JSON file."""
        tree: Mapping[str, Any] = {
            "images": [one["image"] for one in written],
            "annotations": [one["annotation"] for one in written],
            "categories": _categories(self.space, self.values),
        }
        atomic.write(self.out / "panoptic.json", json.dumps(tree, ensure_ascii=False) + "\n")


class InstanceIds(Output):
    """16-bit instance ids, and the lists of things that the benchmark of that format takes.

    `instances/<name>.png` is 16-bit: a thing is 1000 times its class's value and its number, stuff the value itself,
    and pixels of no segment are 0. `results/<name>.txt` lists the things: mask file, class value, score. The encoding
    of the same name reads the former as labels.
    """

    needs_segments = True
    values_from = 1

    def __init__(self, out: Path, space: LabelSpace, values: PixelValues) -> None:
        super().__init__(out, space, values)
        # 0 is "no segment", and 65 * 1000 exceeds 16 bits.
        if max(values.classes) > 64 or min(values.classes) < 1:
            raise UserError(
                f"'{space.name}' has classes of values {min(values.classes)} to {max(values.classes)}; instance ids "
                "hold 1 to 64; write coco_panoptic files"
            )

    def path(self, name: str) -> Path:
        """Return where the ids of an image are."""
        return self.out / "instances" / f"{name}.png"

    def write(self, name: str, found: Prediction) -> None:
        """Write one image's segments."""
        segments = _segments(found)
        ids = np.zeros(segments.ids.shape, np.uint16)
        numbers: dict[int, int] = {}
        lines = []
        for n, (c, score) in enumerate(zip(segments.classes.tolist(), segments.scores.tolist(), strict=True)):
            inside, value = segments.ids.numpy() == n, self.values.classes[c]
            if not self.space.classes[c].thing:
                ids[inside] = value
                continue
            number = numbers[c] = numbers.get(c, -1) + 1
            ids[inside] = 1000 * value + number
            mask = self.out / "results" / "masks" / f"{name}-{value}-{number}.png"
            write_image(mask, Image.fromarray(255 * inside.astype(np.uint8)))
            up = "../" * name.count("/")
            lines.append(f"{up}masks/{name}-{value}-{number}.png {value} {score:.6f}\n")
        write_image(self.path(name), Image.fromarray(ids))
        atomic.write(self.out / "results" / f"{name}.txt", "".join(lines))


def _categories(space: LabelSpace, values: PixelValues) -> list[dict[str, Any]]:
    """Return a label space as the list of categories of a COCO file."""
    return [
        {"id": value, "name": c.name, "isthing": int(c.thing), "color": space.colors[i].tolist()}
        for i, (value, c) in enumerate(zip(values.classes, space.classes, strict=True))
    ]


def _areas(found: Prediction, values: PixelValues) -> list[dict[str, Any]]:
    """Return a COCO annotation of every class that occurs, or of every segment where they are known."""
    groups: list[tuple[int, Bool[np.ndarray, "H W"], dict[str, float]]]
    if found.segments is None:
        groups = [(c, found.labels == c, {}) for c in np.unique(found.labels[found.labels != IGNORE]).tolist()]
    else:
        ids = found.segments.ids.numpy()
        scored = zip(found.segments.classes.tolist(), found.segments.scores.tolist(), strict=True)
        groups = [(c, ids == n, {"score": score}) for n, (c, score) in enumerate(scored)]
    return [
        {
            "category_id": values.classes[c],
            "segmentation": _run_lengths(inside),
            "area": int(inside.sum()),
            "bbox": _box(inside),
            "iscrowd": 0,
            **more,
        }
        for c, inside, more in groups
    ]


def _run_lengths(inside: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    from pycocotools import mask

    code = mask.encode(np.asfortranarray(inside.astype(np.uint8)))
    return {"size": list(inside.shape), "counts": code["counts"].decode()}


def _box(inside: Bool[np.ndarray, "H W"]) -> list[int]:
    """Return x, y, width and height of a mask that is not empty."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def _segments(found: Prediction) -> SegmentMap:
    assert found.segments is not None
    return found.segments
