"""COCO's JSON: panoptic segments with their PNGs, instances as polygons or run lengths, and boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pycocotools import mask as rle

from manyseg.data.encodings.base import ImageFiles, ObjectBoxes, Regions
from manyseg.data.encodings.drawn import Layer, Outline, paint
from manyseg.data.encodings.masks import count_values
from manyseg.data.encodings.records import Record, RecordEncoding, load_json
from manyseg.data.files import DataError, Size, image_size, opened, size_text
from manyseg.data.raster import read_colors
from manyseg.labels import IGNORE

__all__ = ["CocoBoxes", "CocoInstances", "CocoPanoptic"]


class CocoPanoptic(RecordEncoding):
    """The COCO panoptic JSON and its PNGs, whose colour r + 256 g + 65536 b is a segment's id; 0 means no label."""

    name = "coco_panoptic"
    needs = frozenset({"mask", "annotations"})
    kind = "segments"

    def parse(self, path: Path) -> Iterator[tuple[str, Record]]:
        """Read the segments of every mask."""
        keys = ("id", "category_id", "iscrowd")
        for annotation in load_json(path)["annotations"]:
            segments = [{k: s[k] for k in keys if k in s} for s in annotation["segments_info"]]
            yield annotation["file_name"], Record(None, segments)

    def size(self, files: ImageFiles) -> Size | None:
        """Return the mask's size."""
        assert files.mask is not None
        with opened(files.mask) as mask:
            return image_size(mask)

    def read(self, files: ImageFiles) -> Regions:
        """Read the PNG and the classes of its segments."""
        mask, record = files.mask, self.record(files)
        assert mask is not None
        color = read_colors(mask)
        ids = ((color & 255) << 16) | (color & 0xFF00) | (color >> 16)
        listed = np.array([0, *(s["id"] for s in record.items)], np.int64)
        classes = [IGNORE, *(self.raw.position(s["category_id"], mask, "category") for s in record.items)]
        known = np.array([True, *(not s.get("iscrowd") for s in record.items)])
        order = np.argsort(listed, kind="stable")
        slot = np.searchsorted(listed[order], ids).clip(max=len(order) - 1)
        missing = listed[order][slot] != ids
        if missing.any():
            fix = "the PNG and the JSON are of different versions; fetch both again"
            raise DataError(mask, "segment id not in the JSON", fix, count_values(ids[missing]))
        return Regions(order[slot], np.array(classes, np.int64), known)


class _CocoObjects(RecordEncoding):
    """Objects of images, each in an entry of its own."""

    kept: ClassVar[tuple[str, ...]]
    objects = True

    def parse(self, path: Path) -> Iterator[tuple[str, Record]]:
        """Gather the objects of every image."""
        data = load_json(path)
        objects: dict[Any, list[Any]] = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            objects[annotation["image_id"]].append({k: annotation[k] for k in self.kept if k in annotation})
        for image in data["images"]:
            yield image["file_name"], Record((image["height"], image["width"]), objects[image["id"]])


class CocoInstances(_CocoObjects):
    """The COCO instances JSON, polygons or run lengths."""

    name = "coco_instances"
    kind = "segments"
    kept = ("category_id", "iscrowd", "segmentation")
    drawn = True

    def read(self, files: ImageFiles) -> Regions:
        """Paint the objects; see `drawn.paint`. Crowds lie below all of them."""
        record, file = self.record(files), files.annotations
        assert record.size is not None
        assert file is not None
        layers = [
            Layer(
                self.raw.position(item["category_id"], file, "category"),
                _outline(item, record.size, file, files.id),
                not item.get("iscrowd"),
            )
            for item in record.items
        ]
        return paint(layers, record.size, self.raw)


def _outline(item: Mapping[str, Any], size: Size, json: Path, name: str) -> Outline:
    try:
        found = item["segmentation"]
        if isinstance(found, list):
            found = rle.merge(rle.frPyObjects(found, *size))
        elif isinstance(found["counts"], list):
            found = rle.frPyObjects(found, *size)
        outline: Outline = {"size": tuple(found["size"]), "counts": found["counts"]}
        rle.area(outline)
    except Exception as e:  # pycocotools raises bare Exception
        raise DataError(json, f"an outline of '{name}' is broken ({e})", "correct or remove it") from None
    if outline["size"] != size:
        what = f"an outline of '{name}' is {size_text(outline['size'])} in an image of {size_text(size)}"
        raise DataError(json, what, "correct it")
    return outline


class CocoBoxes(_CocoObjects):
    """The COCO instances JSON, boxes only; crowds are left out, for their box holds other things too."""

    name = "coco_boxes"
    kind = "boxes"
    kept = ("category_id", "iscrowd", "bbox")

    def read(self, files: ImageFiles) -> ObjectBoxes:
        """Read the boxes of an image."""
        record, file = self.record(files), files.annotations
        assert record.size is not None
        assert file is not None
        single = [b for b in record.items if not b.get("iscrowd")]
        classes = [self.raw.position(b["category_id"], file, "category") for b in single]
        kept = [b["bbox"] for b, c in zip(single, classes, strict=True) if c != IGNORE]
        corners = np.array(kept, np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        return ObjectBoxes(corners, np.array([c for c in classes if c != IGNORE], np.int64), record.size)
