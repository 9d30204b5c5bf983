"""Named boxes in an XML file an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np

from manyseg.data.encodings.base import Encoding, ImageFiles, ObjectBoxes
from manyseg.data.encodings.boxes import judged
from manyseg.data.encodings.schema import Coordinate, Fault, Name, Side, faults, shown
from manyseg.data.files import DataError, stream
from manyseg.data.finding import Finding
from manyseg.data.window import Size

__all__ = ["VocBoxes"]


class _Size(msgspec.Struct):
    height: Side
    width: Side


class _Bounds(msgspec.Struct):
    xmin: Coordinate
    ymin: Coordinate
    xmax: Coordinate
    ymax: Coordinate


class _Object(msgspec.Struct):
    name: Name
    bndbox: _Bounds


class VocBoxes(Encoding):
    """An XML an image with named boxes; a class without a value is called by its name."""

    name = "voc_boxes"
    needs = frozenset({"annotations"})
    kind = "boxes"
    values = "word"
    objects = True
    named = True
    per_image = True

    def size(self, files: ImageFiles) -> Size | None:
        """Return the size that the XML gives."""
        assert files.annotations is not None
        return _size(files.annotations, _root(files.annotations))

    def read(self, files: ImageFiles) -> ObjectBoxes:
        """Read the boxes, whose corners are pixels counted from 1, both included."""
        path = files.annotations
        assert path is not None
        size, items, wrong, findings = self._parse(path)
        if wrong:
            raise DataError.joined(wrong)
        classes = self.raw.classes((i.name for i in items), path, "category")
        corners = [(i.bndbox.xmin - 1, i.bndbox.ymin - 1, i.bndbox.xmax, i.bndbox.ymax) for i in items]
        return ObjectBoxes.within(size, np.array(corners, np.float32).reshape(-1, 4), classes, findings)

    def _parse(self, path: Path) -> tuple[Size, list[_Object], list[DataError], list[Finding]]:
        root = _root(path)
        size, items = _size(path, root), []
        wrong: list[DataError] = []
        warnings: list[Finding] = []
        for number, element in enumerate(root.iter("object"), 1):
            record = _fields(element, ("name", "bndbox"))
            place = f"object {number} ('{record.get('name', '')}')"
            try:
                item = msgspec.convert(record, _Object, strict=False)
            except msgspec.ValidationError:
                wrong += [fault.error(path, place) for fault in faults(record, _Object)]
                continue
            box = item.bndbox
            verdict = judged(box.xmin - 1, box.ymin - 1, box.xmax, box.ymax, size)
            field = f"bndbox = {shown([box.xmin, box.ymin, box.xmax, box.ymax])}"
            if verdict is not None and verdict.severity == "error":
                wrong.append(Fault(field, verdict.what, verdict.fix).error(path, place))
            elif verdict is not None:
                place = f"{place}, {field}"
                warnings.append(Finding("warning", verdict.what, str(path), verdict.fix, place=place))
            items.append(item)
        if items and max(max(i.bndbox.xmax, i.bndbox.ymax) for i in items) <= 1 < min(size):
            what = "all boxes lie between 0 and 1, as if they were parts of the image's sides"
            wrong.append(Fault("bndbox", what, "write pixels, counted from 1").error(path, "all objects"))
        return size, items, wrong, warnings


def _root(path: Path) -> ElementTree.Element:
    try:
        with stream(path) as file:
            return ElementTree.parse(file).getroot()
    except FileNotFoundError:
        raise DataError(path, "there is no such file", "add it, or remove its id from the split") from None
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as e:
        what = f"not the XML that encoding 'voc_boxes' reads ({e})"
        raise DataError(path, what, "correct it or fetch it again") from None


def _size(path: Path, root: ElementTree.Element) -> Size:
    element = root.find("size")
    if element is None:
        raise DataError(path, "it does not give the image's size", "write <size> with width and height")
    record = _fields(element, ("width", "height"))
    try:
        size = msgspec.convert(record, _Size, strict=False)
    except msgspec.ValidationError:
        fix = "write <size> with width and height"
        wrong = [fault._replace(fix=fix).error(path, "size") for fault in faults(record, _Size)]
        raise DataError.joined(wrong) from None
    return size.height, size.width


def _fields(element: ElementTree.Element, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the text, or else the fields, of the first child of each name."""
    out: dict[str, Any] = {}
    for name in names:
        child = element.find(name)
        if child is not None:
            inner = {c.tag: (c.text or "").strip() for c in child}
            out[name] = inner or (child.text or "").strip()
    return out
