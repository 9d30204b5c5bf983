"""Files of panoptic predictions: COCO panoptic, and instance ids.

They have the names of the encodings by which a card reads them, so that predictions can be used as labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from manyseg import atomic
from manyseg.data.files import write_image
from manyseg.errors import UserError
from manyseg.inference.segments import SegmentMap
from manyseg.labels import LabelSpace

__all__ = ["FORMATS", "CocoPanoptic", "InstanceIds"]


class CocoPanoptic:
    """Writes `panoptic/<name>.png` (colour r + 256 g + 65536 b is a segment's id) and `panoptic.json`.

    `values` are the category ids of the classes, by default their position + 1. Pixels of no segment have id 0.
    """

    def __init__(self, out: Path, space: LabelSpace, values: Sequence[int] | None = None) -> None:
        self.out, self.space = out, space
        self.values = list(values) if values is not None else [i + 1 for i in range(len(space))]
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, name: str, found: SegmentMap) -> None:
        """Write one image's segments; its id is the name."""
        ids = found.ids.numpy() + 1
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1).astype(np.uint8)
        path = self.out / "panoptic" / f"{name}.png"
        write_image(path, Image.fromarray(rgb))
        height, width = ids.shape
        self.images.append({"id": name, "file_name": f"{name}.png", "height": height, "width": width})
        segments = []
        for n, (c, score) in enumerate(zip(found.classes.tolist(), found.scores.tolist(), strict=True), 1):
            rows, columns = np.nonzero(ids == n)
            x, y = int(columns.min()), int(rows.min())
            box = [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]
            segments.append(
                {"id": n, "category_id": self.values[c], "area": len(rows), "bbox": box, "iscrowd": 0, "score": score}
            )
        self.annotations.append({"image_id": name, "file_name": f"{name}.png", "segments_info": segments})

    def finish(self) -> None:
        """Write the JSON file."""
        categories = [
            {"id": value, "name": c.name, "isthing": int(c.thing), "color": self.space.colors[i].tolist()}
            for i, (value, c) in enumerate(zip(self.values, self.space.classes, strict=True))
        ]
        tree: Mapping[str, Any] = {
            "images": self.images,
            "annotations": self.annotations,
            "categories": categories,
        }
        text = json.dumps(tree, ensure_ascii=False)
        atomic.write(self.out / "panoptic.json", text + "\n")


class InstanceIds:
    """Writes 16-bit instance ids, and the lists of things that the benchmark of that format takes.

    `instances/<name>.png` is 16-bit: a thing is 1000 times its class's value and its number, stuff the value itself,
    and pixels of no segment are 0. `results/<name>.txt` lists the things: mask file, class value, score. `values` are
    those of the card; by default position + 1, as 0 is taken.
    """

    def __init__(self, out: Path, space: LabelSpace, values: Sequence[int] | None = None) -> None:
        self.out, self.space = out, space
        self.values = list(values) if values is not None else [i + 1 for i in range(len(space))]
        # 0 is "no segment", and 65 * 1000 exceeds 16 bits.
        if max(self.values) > 64 or min(self.values) < 1:
            raise UserError(
                f"'{space.name}' has classes of values {min(self.values)} to {max(self.values)}; instance ids hold "
                "1 to 64; write coco_panoptic files"
            )

    def add(self, name: str, found: SegmentMap) -> None:
        """Write one image's segments."""
        ids = np.zeros(found.ids.shape, np.uint16)
        numbers: dict[int, int] = {}
        lines = []
        for n, (c, score) in enumerate(zip(found.classes.tolist(), found.scores.tolist(), strict=True)):
            inside, value = found.ids.numpy() == n, self.values[c]
            if not self.space.classes[c].thing:
                ids[inside] = value
                continue
            number = numbers[c] = numbers.get(c, -1) + 1
            ids[inside] = 1000 * value + number
            mask = self.out / "results" / "masks" / f"{name}-{value}-{number}.png"
            write_image(mask, Image.fromarray(255 * inside.astype(np.uint8)))
            up = "../" * name.count("/")
            lines.append(f"{up}masks/{name}-{value}-{number}.png {value} {score:.6f}\n")
        write_image(self.out / "instances" / f"{name}.png", Image.fromarray(ids))
        atomic.write(self.out / "results" / f"{name}.txt", "".join(lines))

    def finish(self) -> None:
        """Do nothing: every image has files of its own."""


FORMATS: Mapping[str, type[CocoPanoptic] | type[InstanceIds]] = {
    "coco_panoptic": CocoPanoptic,
    "instance_ids": InstanceIds,
}
"""The writers by the names that the command line uses."""
