"""Annotation files that speak of many images at once: COCO JSON, and tags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from manyseg.data.files import DataError
from manyseg.errors import UserError

__all__ = ["Record", "Records"]

# What is kept of a COCO object, by encoding.
KEPT = {
    "coco_panoptic": ("id", "category_id", "iscrowd"),
    "coco_instances": ("category_id", "iscrowd", "segmentation"),
    "coco_boxes": ("category_id", "iscrowd", "bbox"),
}


class Record(NamedTuple):
    """What an annotation file says of one image: its size (height, width) where given, and its objects or tags."""

    size: tuple[int, int] | None
    items: list[Any]


class Records:
    """The records of one annotation file, by the name of the image (COCO panoptic: of the mask) or id (tags).

    The file is parsed once; a record is kept as JSON text, a small part of the memory of its objects, which forked
    workers share without copying.
    """

    def __init__(self, path: Path, encoding: str) -> None:
        self.path = path
        self._texts: dict[str, bytes] = {}
        data = _load(path)
        try:
            for name, size, items in _tags(data) if encoding == "tags" else _coco(data, encoding):
                self._texts[name] = json.dumps([size, items], separators=(",", ":")).encode()
        except (KeyError, TypeError, AttributeError) as e:
            reason = f"no {e}" if isinstance(e, KeyError) else str(e)
            raise UserError(
                f"{path}: not the JSON that encoding '{encoding}' reads ({reason}); check the card"
            ) from None

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, name: str) -> Record:
        """Find the record of `name`, a path whose leading folders the file may have left out."""
        rest = name
        while rest not in self._texts and "/" in rest:
            rest = rest.split("/", 1)[1]
        if rest not in self._texts:
            raise DataError(self.path, f"it has no entry for '{name}'", "remove the image or complete the file")
        size, items = json.loads(self._texts[rest])
        return Record(tuple(size) if size else None, items)


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such annotation file; check the card and the root") from None
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: unreadable or truncated JSON ({e}); fetch the file again") from None


def _tags(data: Any) -> Iterator[tuple[str, None, list[Any]]]:
    for name, tags in data.items():
        if not isinstance(tags, list):
            raise TypeError(f"the tags of '{name}' are no list")
        yield name, None, tags


def _coco(data: Any, encoding: str) -> Iterator[tuple[str, tuple[int, int] | None, list[Any]]]:
    keys = KEPT[encoding]
    if encoding == "coco_panoptic":
        for annotation in data["annotations"]:
            segments = [{k: s[k] for k in keys if k in s} for s in annotation["segments_info"]]
            yield annotation["file_name"], None, segments
        return
    objects: dict[Any, list[Any]] = {image["id"]: [] for image in data["images"]}
    for annotation in data["annotations"]:
        objects[annotation["image_id"]].append({k: annotation[k] for k in keys if k in annotation})
    for image in data["images"]:
        yield image["file_name"], (image["height"], image["width"]), objects[image["id"]]
