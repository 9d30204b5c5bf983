"""Named boxes in an XML file an image."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np

from manyseg.data.encodings.base import Encoding, ImageFiles, ObjectBoxes
from manyseg.data.files import DataError, Size
from manyseg.labels import IGNORE

__all__ = ["VocBoxes"]


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
        return self.read(files).size

    def read(self, files: ImageFiles) -> ObjectBoxes:
        """Read the boxes, whose corners are pixels counted from 1, both included."""
        path = files.annotations
        assert path is not None
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
                items.append((_text(item, "name"), (x0 - 1, y0 - 1, x1, y1)))
        except FileNotFoundError:
            raise DataError(path, "there is no such file", "add it, or remove its id from the split") from None
        except (OSError, ElementTree.ParseError, ValueError) as e:
            what = f"not the XML that encoding 'voc_boxes' reads ({e})"
            raise DataError(path, what, "correct it or fetch it again") from None
        if sides is None or 0 in sides:
            raise DataError(path, "it does not give the image's size", "write <size> with width and height")
        classes = np.array([self.raw.position(name, path, "category") for name, _ in items], np.int64)
        corners = np.array([box for _, box in items], np.float32).reshape(-1, 4)
        return ObjectBoxes(corners[classes != IGNORE], classes[classes != IGNORE], sides)


def _text(element: ElementTree.Element, name: str) -> str:
    text = element.findtext(name)
    if text is None:
        raise ValueError(f"no {name} in {element.tag}")
    return text.strip()
