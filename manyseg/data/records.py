"""Annotation files of objects and tags: COCO JSON, Open Images CSV and lists of tags, of many images; XML, of one.

Boxes of every source are spelled as COCO does: category, [x, y, width, height], crowd or not.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from manyseg.data.files import DataError
from manyseg.errors import UserError

__all__ = ["Record", "Records", "read_voc"]

# What is kept of a COCO object, by encoding.
KEPT = {
    "coco_panoptic": ("id", "category_id", "iscrowd"),
    "coco_instances": ("category_id", "iscrowd", "segmentation"),
    "coco_boxes": ("category_id", "iscrowd", "bbox"),
}


class Record(NamedTuple):
    """What an annotation file says of one image: its size (height, width) where given, and its objects or tags.

    Boxes of a record without size are in parts of the image's sides.
    """

    size: tuple[int, int] | None
    items: list[Any]


class Records:
    """The records of one annotation file, by the name of the image (COCO panoptic: of the mask) or id (tags, CSV).

    The file is parsed once; a record is kept as JSON text, a small part of the memory of its objects, which forked
    workers share without copying.
    """

    def __init__(self, path: Path, encoding: str) -> None:
        self.path = path
        self._texts: dict[str, bytes] = {}
        kind = "CSV" if encoding.startswith("openimages") else "JSON"
        try:
            for name, size, items in _read(path, encoding):
                self._texts[name] = json.dumps([size, items], separators=(",", ":")).encode()
        except (KeyError, TypeError, AttributeError, ValueError, csv.Error) as e:
            reason = f"no {e}" if isinstance(e, KeyError) else str(e)
            raise UserError(
                f"{path}: not the {kind} that encoding '{encoding}' reads ({reason}); check the card"
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


def _read(path: Path, encoding: str) -> Iterator[tuple[str, tuple[int, int] | None, list[Any]]]:
    if encoding.startswith("openimages"):
        return _open_images(path, encoding)
    data = _load(path)
    return _tags(data) if encoding == "tags" else _coco(data, encoding)


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


def _open_images(path: Path, encoding: str) -> Iterator[tuple[str, None, list[Any]]]:
    """Read boxes or verified labels, one a row; an image's rows need not be together.

    Groups of objects are crowds. Labels of confidence 0 are those that people found not to be there.
    """
    out: dict[str, list[Any]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                items, label = out.setdefault(row["ImageID"], []), row["LabelName"]
                if encoding == "openimages_boxes":
                    x0, x1, y0, y1 = (float(row[k]) for k in ("XMin", "XMax", "YMin", "YMax"))
                    crowd = int(row.get("IsGroupOf") == "1")
                    items.append({"category_id": label, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": crowd})
                elif float(row.get("Confidence") or 1) > 0:
                    items.append(label)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such annotation file; check the card and the root") from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: unreadable CSV ({e}); fetch the file again") from None
    for name, items in out.items():
        yield name, None, items


def read_voc(path: Path) -> Record:
    """Read one image's XML of named boxes, whose corners are pixels counted from 1, both included."""
    try:
        root = ElementTree.parse(path).getroot()
        size = root.find("size")
        sides = None if size is None else (int(_text(size, "height")), int(_text(size, "width")))
        items = []
        for item in root.iter("object"):
            box = item.find("bndbox")
            if box is None:
                raise ValueError("an object without bndbox")
            x0, y0, x1, y1 = (float(_text(box, k)) for k in ("xmin", "ymin", "xmax", "ymax"))
            items.append({"category_id": _text(item, "name"), "bbox": [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]})
    except FileNotFoundError:
        raise DataError(path, "there is no such file", "add it, or remove its id from the split") from None
    except (OSError, ElementTree.ParseError, ValueError) as e:
        what = f"not the XML that encoding 'voc_boxes' reads ({e})"
        raise DataError(path, what, "correct it or fetch it again") from None
    if sides is None or 0 in sides:
        raise DataError(path, "it does not give the image's size", "write <size> with width and height")
    return Record(sides, items)


def _text(element: ElementTree.Element, name: str) -> str:
    text = element.findtext(name)
    if text is None:
        raise ValueError(f"no {name} in {element.tag}")
    return text.strip()
