"""How annotation files spell labels: one file a family of formats, and the table of their names."""

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
from manyseg.data.encodings.coco import CocoBoxes, CocoInstances, CocoPanoptic
from manyseg.data.encodings.cvat import CvatImages
from manyseg.data.encodings.label_studio import LabelStudio
from manyseg.data.encodings.labelme import Labelme
from manyseg.data.encodings.masks import Color, Index, InstanceIds
from manyseg.data.encodings.open_images import OpenImagesBoxes, OpenImagesTags
from manyseg.data.encodings.polygon_json import PolygonJson
from manyseg.data.encodings.red_green import RedGreen
from manyseg.data.encodings.supervisely import Supervisely
from manyseg.data.encodings.tags import TagLists
from manyseg.data.encodings.xml_boxes import VocBoxes
from manyseg.data.encodings.yolo import YoloBoxes, YoloSegments

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
    "found_size",
]

ENCODINGS: dict[str, type[Encoding]] = {
    encoding.name: encoding
    for encoding in (
        Index,
        Color,
        InstanceIds,
        RedGreen,
        CocoPanoptic,
        CocoInstances,
        CocoBoxes,
        Labelme,
        PolygonJson,
        Supervisely,
        CvatImages,
        LabelStudio,
        YoloSegments,
        YoloBoxes,
        VocBoxes,
        OpenImagesBoxes,
        OpenImagesTags,
        TagLists,
    )
}
"""Every encoding by the name that cards give it."""
