"""How annotation files spell labels: one file for each family of formats, and the table of their names."""

from functools import cache
from importlib import import_module

from manyseg.data.encodings.base import (
    Encoding,
    Found,
    ImageFiles,
    ImageTags,
    ObjectBoxes,
    Overlap,
    Raw,
    RawValues,
    Regions,
    Said,
    found_size,
)

__all__ = [
    "ENCODINGS",
    "Encoding",
    "Found",
    "ImageFiles",
    "ImageTags",
    "ObjectBoxes",
    "Overlap",
    "Raw",
    "RawValues",
    "Regions",
    "Said",
    "find_encoding",
    "found_size",
]

ENCODINGS = {
    "index": "masks:Index",
    "color": "masks:Color",
    "instance_ids": "masks:InstanceIds",
    "ade_full": "red_green:RedGreen",
    "coco_panoptic": "coco:CocoPanoptic",
    "coco_instances": "coco:CocoInstances",
    "coco_boxes": "coco:CocoBoxes",
    "labelme": "labelme:Labelme",
    "polygon_json": "polygon_json:PolygonJson",
    "supervisely": "supervisely:Supervisely",
    "cvat_images": "cvat:CvatImages",
    "label_studio": "label_studio:LabelStudio",
    "yolo_segments": "yolo:YoloSegments",
    "yolo_boxes": "yolo:YoloBoxes",
    "voc_boxes": "xml_boxes:VocBoxes",
    "box_lines": "box_lines:BoxLines",
    "openimages_boxes": "open_images:OpenImagesBoxes",
    "openimages_tags": "open_images:OpenImagesTags",
    "tags": "tags:TagLists",
}
"""Where the class of each encoding is, in this folder; it is imported when a card names it."""


@cache
def find_encoding(name: str) -> type[Encoding]:
    """Return the class of an encoding by its name in ENCODINGS."""
    module, _, attribute = ENCODINGS[name].partition(":")
    found: type[Encoding] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return found
