"""How annotation files spell labels: one file a family of formats, and the table of their names."""

from manyseg.data.encodings.base import Encoding, ImageFiles, ImageTags, ObjectBoxes, Raw, RawValues, Regions
from manyseg.data.encodings.coco import CocoBoxes, CocoInstances, CocoPanoptic
from manyseg.data.encodings.masks import Color, Index, InstanceIds
from manyseg.data.encodings.open_images import OpenImagesBoxes, OpenImagesTags
from manyseg.data.encodings.tags import TagLists
from manyseg.data.encodings.xml_boxes import VocBoxes

__all__ = ["ENCODINGS", "Encoding", "ImageFiles", "ImageTags", "ObjectBoxes", "Raw", "RawValues", "Regions"]

ENCODINGS: dict[str, type[Encoding]] = {
    encoding.name: encoding
    for encoding in (
        Index,
        Color,
        InstanceIds,
        CocoPanoptic,
        CocoInstances,
        CocoBoxes,
        VocBoxes,
        OpenImagesBoxes,
        OpenImagesTags,
        TagLists,
    )
}
"""Every encoding by the name that cards give it."""
