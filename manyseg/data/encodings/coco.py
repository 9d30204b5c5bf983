"""COCO's JSON: panoptic segments with their PNGs, instances as polygons or run lengths, and boxes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec
import numpy as np
from pycocotools import mask as rle

from manyseg.data.encodings.base import ImageFiles, ObjectBoxes, RawValues, Regions
from manyseg.data.encodings.boxes import Corners, judged
from manyseg.data.encodings.categories import Category, CategoryId, compared, resolved
from manyseg.data.encodings.drawn import EMPTY, Layer, paint
from manyseg.data.encodings.masks import count_values
from manyseg.data.encodings.outlines import Segmentation, outline_corners, outline_faults, packed
from manyseg.data.encodings.records import FAULTS, ImageRecord, RecordEncoding
from manyseg.data.encodings.schema import Fault, Identifier, Name, Side, checked, load_json, shown
from manyseg.data.files import DataError
from manyseg.data.finding import Finding
from manyseg.data.raster import raster_size, read_colors
from manyseg.data.window import Size
from manyseg.errors import UserError
from manyseg.labels import IGNORE

__all__ = ["CocoBoxes", "CocoInstances", "CocoPanoptic"]


class _Image(msgspec.Struct):
    id: Identifier
    file_name: Name
    height: Side
    width: Side


class _Segment(msgspec.Struct):
    # A PNG's colour holds 24 bits.
    id: Annotated[int, msgspec.Meta(gt=0, lt=1 << 24)]
    category_id: CategoryId
    iscrowd: bool = False


class _SegmentedImage(msgspec.Struct):
    file_name: Name
    segments_info: list[msgspec.Raw]


class _Object(msgspec.Struct):
    image_id: Identifier
    category_id: CategoryId
    id: Identifier | None = None
    iscrowd: bool | None = False


class _Outlined(_Object, kw_only=True):
    segmentation: Segmentation


class _Boxed(_Object, kw_only=True):
    bbox: Corners


class _Panoptic(msgspec.Struct):
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw] = []


class _Objects(msgspec.Struct):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw] = []


Item = TypeVar("Item", bound=msgspec.Struct)


class _Coco(RecordEncoding[Item], Generic[Item]):
    """A file with categories of its own, which are compared with the card's classes."""

    values = "number or name"
    named = True

    def __init__(self, values: RawValues) -> None:
        super().__init__(values)
        self.categories: dict[int, str] = {}

    def compare(self, path: Path, raw: list[msgspec.Raw]) -> None:
        """Take over the file's categories."""
        categories = []
        for number, record in enumerate(raw):
            category = checked(record, Category)
            if isinstance(category, list):
                raise UserError(str(category[0].error(path, f"category #{number}")))
            categories.append(category)
        given, self.raw = self.raw, resolved(path, categories, self.raw)
        self.categories = {c.id: c.name for c in categories}
        for finding in compared(path, categories, given, self.raw):
            self.warn(finding)


class CocoPanoptic(_Coco[_Segment]):
    """The COCO panoptic JSON and its PNGs, whose colour r + 256 g + 65536 b is a segment's id; 0 means no label."""

    name = "coco_panoptic"
    needs = frozenset({"mask", "annotations"})
    kind = "segments"
    items = msgspec.json.Decoder(list[_Segment])

    def parse(self, path: Path) -> Iterator[ImageRecord]:
        """Read the segments of every mask."""
        file = load_json(path, _Panoptic)
        self.compare(path, file.categories)
        for number, raw in enumerate(file.annotations):
            image = checked(raw, _SegmentedImage)
            if isinstance(image, list):
                yield ImageRecord.broken(path, f"annotation #{number}", raw, "file_name", image)
                continue
            segments: list[_Segment] = []
            faults: list[DataError] = []
            first: dict[int, int] = {}
            for i, entry in enumerate(image.segments_info):
                segment = checked(entry, _Segment)
                place = f"'{image.file_name}', segments_info[{i}]"
                if isinstance(segment, list):
                    faults += [fault.error(path, place) for fault in segment]
                    continue
                if segment.id in first:
                    what = f"a segment is listed twice (id {segment.id}, also in segments_info[{first[segment.id]}])"
                    faults.append(Fault("id", what, "remove one").error(path, place))
                first.setdefault(segment.id, i)
                segments.append(segment)
            yield ImageRecord(image.file_name, None, msgspec.json.encode(segments), faults)

    def size(self, files: ImageFiles) -> Size | None:
        """Return the mask's size."""
        assert files.mask is not None
        return raster_size(files.mask, banded=files.banded)

    def read(self, files: ImageFiles) -> Regions:
        """Read the PNG and the classes of its segments."""
        mask, record = files.mask, self.record(files)
        assert mask is not None
        color = read_colors(mask, files.window)
        ids = ((color & 255) << 16) | (color & 0xFF00) | (color >> 16)
        listed = np.array([0, *(s.id for s in record.items)], np.int64)
        classes = self.raw.classes((s.category_id for s in record.items), mask, "category")
        known = np.array([True, *(not s.iscrowd for s in record.items)])
        order = np.argsort(listed, kind="stable")
        slot = np.searchsorted(listed[order], ids).clip(max=len(order) - 1)
        missing = listed[order][slot] != ids
        if missing.any():
            fix = "the PNG and the JSON are of different versions; fetch both again"
            raise DataError(mask, "segment id not in the JSON", fix, count_values(ids[missing]))
        return Regions(order[slot], np.concatenate([[IGNORE], classes]), known)


class _CocoObjects(_Coco[Item], Generic[Item]):
    """Objects of images, each in an entry of its own."""

    schema: ClassVar[Any]
    objects = True

    def __init__(self, values: RawValues) -> None:
        super().__init__(values)
        self._ids: set[int | str] = set()

    def parse(self, path: Path) -> Iterator[ImageRecord]:
        """Gather the objects of every image."""
        file = load_json(path, _Objects)
        self.compare(path, file.categories)
        images: dict[str, _Image] = {}
        faults: dict[str, list[DataError]] = {}
        for number, raw in enumerate(file.images):
            image = checked(raw, _Image)
            if isinstance(image, list):
                yield ImageRecord.broken(path, f"images[{number}]", raw, "file_name", image)
                continue
            key = str(image.id)
            if key in images:
                fault = Fault("id", f"two images have one id ('{images[key].file_name}' too)", "give each its own id")
                error = fault.error(path, f"image {key}, '{image.file_name}'")
                faults.setdefault(key, []).append(error)
                yield ImageRecord(image.file_name, None, b"", [error])
            images.setdefault(key, image)
        texts: dict[str, list[bytes]] = {}
        self._ids.clear()
        for number, raw in enumerate(file.annotations):
            self._add_object(path, number, raw, images, texts, faults)
        self.finish(path)
        for key, image in images.items():
            text = b"[" + b",".join(texts.pop(key, [])) + b"]"
            yield ImageRecord(image.file_name, (image.height, image.width), text, faults.get(key, []))

    def _add_object(
        self,
        path: Path,
        number: int,
        raw: msgspec.Raw,
        images: dict[str, _Image],
        texts: dict[str, list[bytes]],
        faults: dict[str, list[DataError]],
    ) -> None:
        """Add one object to its image, as text or as what is wrong with it."""
        item = checked(raw, self.schema)
        key = str(_field(raw, "image_id") if isinstance(item, list) else item.image_id)
        image = images.get(key)
        if image is None:
            what = "an object is of an image that the file does not list, and is left out"
            place = f"{_called(raw, number)}, image_id = {key}"
            self.warn(Finding("warning", what, str(path), "add the image, or remove the object", place=place))
            return
        wrong = item if isinstance(item, list) else self.judge(item, image, path, number)
        if wrong:
            errors = faults.setdefault(key, [])
            place = f"{_called(raw, number)} of '{image.file_name}'"
            errors += [fault.error(path, place) for fault in wrong][: max(0, FAULTS - len(errors))]
        elif key not in faults:
            self._keep(item, path, f"{_called(raw, number)} of '{image.file_name}'", texts.setdefault(key, []))

    def _keep(self, item: Any, path: Path, place: str, texts: list[bytes]) -> None:
        """Add an object to those of its image, unless it is there already under the same id."""
        text = msgspec.json.encode(item)
        repeated = item.id in self._ids
        if item.id is not None:
            self._ids.add(item.id)
        if repeated and text in texts:
            what, fix = "an object is listed twice, and is read once", "remove one"
            self.warn(Finding("warning", what, str(path), fix, place=place))
            return
        if repeated:
            what, fix = "two objects have one id", "nothing to do if both are meant; else remove one"
            self.warn(Finding("warning", what, str(path), fix, place=place))
        texts.append(text)

    @abstractmethod
    def judge(self, item: Any, image: _Image, path: Path, number: int) -> list[Fault]:
        """Say what is wrong with an object, knowing the size of its image."""

    def placed(
        self, item: _Object, corners: Corners, image: _Image, path: Path, number: int, what: str, field: str
    ) -> list[Fault]:
        """Judge where the `what` of an object lies: return an error, keep a warning."""
        verdict = judged(*corners, (image.height, image.width), what)
        if verdict is None:
            return []
        if verdict.severity == "error":
            return [Fault(field, verdict.what, verdict.fix)]
        called = f"annotations[{number}]" if item.id is None else f"annotation {item.id}"
        place = f"{called} of '{image.file_name}', {field}"
        self.warn(Finding("warning", verdict.what, str(path), verdict.fix, place=place))
        return []

    def finish(self, path: Path) -> None:
        """Judge the file as a whole, when all its objects were seen."""


def _field(raw: msgspec.Raw, name: str) -> Any:
    record = msgspec.json.decode(raw)
    return record.get(name) if isinstance(record, dict) else None


def _called(raw: msgspec.Raw, number: int) -> str:
    """Name an annotation by its id, or else by its place in the list."""
    known = _field(raw, "id")
    return f"annotations[{number}]" if known is None else f"annotation {known}"


class CocoInstances(_CocoObjects[_Outlined]):
    """The COCO instances JSON, polygons or run lengths."""

    name = "coco_instances"
    kind = "segments"
    drawn = True
    schema = _Outlined
    items = msgspec.json.Decoder(list[_Outlined])

    def judge(self, item: _Outlined, image: _Image, path: Path, number: int) -> list[Fault]:
        """Say what is wrong with an object's outline."""
        faults = outline_faults(item.segmentation, (image.height, image.width))
        corners = None if faults else outline_corners(item.segmentation)
        if corners is None or corners[0] == corners[2] or corners[1] == corners[3]:
            return faults
        return self.placed(item, corners, image, path, number, "outline", "segmentation")

    def read(self, files: ImageFiles) -> Regions:
        """Paint the objects; see `drawn.paint`. Crowds lie below all of them."""
        record, file = self.record(files), files.annotations
        assert record.size is not None
        assert file is not None
        stored = files.image_size()
        if record.size not in (stored, stored[::-1]):  # Before anything of that size is made.
            raise files.unlike(record.size, stored)
        classes = self.raw.classes((item.category_id for item in record.items), file, "category")
        layers, faults, findings = [], [], []
        for item, position in zip(record.items, classes.tolist(), strict=True):
            outline, place = packed(item.segmentation, record.size), f"annotation {item.id} of '{files.id}'"
            if isinstance(outline, Fault):
                faults.append(outline.error(file, place))
                continue
            layers.append(Layer(position, outline, not item.iscrowd))
            if not rle.area(outline):
                findings.append(Finding(EMPTY.severity, EMPTY.what, str(file), EMPTY.fix, place=place))
        if faults:
            raise DataError.joined(faults)
        return paint(layers, record.size, self.raw, files.window, findings)


class CocoBoxes(_CocoObjects[_Boxed]):
    """The COCO instances JSON, boxes only; crowds are left out, for their box holds other things too."""

    name = "coco_boxes"
    kind = "boxes"
    schema = _Boxed
    items = msgspec.json.Decoder(list[_Boxed])

    def __init__(self, values: RawValues) -> None:
        super().__init__(values)
        self._largest = -1.0

    def judge(self, item: _Boxed, image: _Image, path: Path, number: int) -> list[Fault]:
        """Say what is wrong with an object's box."""
        x, y, width, height = item.bbox
        self._largest = max(self._largest, *item.bbox)
        corners, field = (x, y, x + width, y + height), f"bbox = {shown(item.bbox)}"
        return self.placed(item, corners, image, path, number, "box", field)

    def finish(self, path: Path) -> None:
        """Refuse boxes in parts of the image's sides."""
        if 0 <= self._largest <= 1:
            raise UserError(
                f"{path}: all boxes lie between 0 and 1, as if they were parts of the image's sides; COCO's are in "
                f"pixels: multiply them by width and height"
            )

    def read(self, files: ImageFiles) -> ObjectBoxes:
        """Read the boxes of an image."""
        record, file = self.record(files), files.annotations
        assert record.size is not None
        assert file is not None
        single = [b for b in record.items if not b.iscrowd]
        classes = self.raw.classes((b.category_id for b in single), file, "category")
        corners = np.array([b.bbox for b in single], np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        return ObjectBoxes.within(record.size, corners, classes)
