"""Open Images' CSV files: boxes, and labels that people verified."""

from __future__ import annotations

import csv
import io
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec
import numpy as np

from manyseg.data.encodings.base import ImageFiles, ImageTags, ObjectBoxes
from manyseg.data.encodings.boxes import judged
from manyseg.data.encodings.records import FAULTS, ImageRecord, RecordEncoding
from manyseg.data.encodings.schema import Fault, Name, faults, read_bytes, shown
from manyseg.data.files import DataError
from manyseg.data.finding import Finding
from manyseg.errors import UserError

__all__ = ["OpenImagesBoxes", "OpenImagesTags"]

Part = Annotated[float, msgspec.Meta(ge=-0.01, le=1.01)]
"""A position as a part of the image's side."""


class _Box(msgspec.Struct):
    ImageID: Name
    LabelName: Name
    XMin: Part
    XMax: Part
    YMin: Part
    YMax: Part
    IsGroupOf: Annotated[int, msgspec.Meta(ge=-1, le=1)] = 0


class _Label(msgspec.Struct):
    ImageID: Name
    LabelName: Name
    Confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0


Row = TypeVar("Row", bound=_Box | _Label)


class _OpenImages(RecordEncoding[Row], Generic[Row]):
    """A CSV with a box or label a row; an image's rows need not be together."""

    values = "word"
    by_name = False
    schema: ClassVar[type[Any]]

    def parse(self, path: Path) -> Iterator[ImageRecord]:
        """Gather the rows of every image."""
        texts: dict[str, list[bytes]] = {}
        wrong: dict[str, list[DataError]] = {}
        for number, row in self._rows(path):
            place = f"line {number}"
            try:
                item = msgspec.convert(row, self.schema, strict=False)
            except msgspec.ValidationError:
                image, found = row.get("ImageID") or "", faults(row, self.schema)
            else:
                image, found = item.ImageID, self.judge(item, path, place)
            kept = texts.setdefault(image, [])
            if found:
                errors = wrong.setdefault(image, [])
                errors += [fault.error(path, place) for fault in found][: max(0, FAULTS - len(errors))]
            elif self.kept(item):
                kept.append(msgspec.json.encode(item))
        for image, rows in texts.items():
            yield ImageRecord(image, None, b"[" + b",".join(rows) + b"]", wrong.get(image, ()))

    def _rows(self, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
        """Read the rows with their line numbers; empty cells are left out."""
        needed = [f.encode_name for f in msgspec.structs.fields(self.schema) if f.required]
        try:
            reader = csv.DictReader(io.StringIO(read_bytes(path).decode(), newline=""))
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{path}: not the CSV that encoding '{self.name}' reads (no '{missing[0]}'); its columns are "
                    f"{', '.join(reader.fieldnames or ()) or 'none'}; check the card"
                )
            for row in reader:
                yield reader.line_num, {k: v for k, v in row.items() if k is not None and v}
        except (UnicodeDecodeError, csv.Error) as e:
            raise UserError(f"{path}: unreadable CSV ({e}); fetch the file again") from None

    def judge(self, item: Row, path: Path, place: str) -> list[Fault]:
        """Say what is wrong with a row."""
        return []

    @abstractmethod
    def kept(self, item: Row) -> bool:
        """Say whether a row counts."""


class OpenImagesBoxes(_OpenImages[_Box]):
    """The CSV of boxes, in parts of the image's sides; groups of objects are left out."""

    name = "openimages_boxes"
    kind = "boxes"
    objects = True
    sized = False
    schema = _Box
    items = msgspec.json.Decoder(list[_Box])

    def judge(self, item: _Box, path: Path, place: str) -> list[Fault]:
        """Say what is wrong with a box."""
        verdict = judged(item.XMin, item.YMin, item.XMax, item.YMax, (1, 1))
        if verdict is None:
            return []
        field = f"XMin, YMin, XMax, YMax = {shown([item.XMin, item.YMin, item.XMax, item.YMax])}"
        if verdict.severity == "error":
            return [Fault(field, verdict.what, verdict.fix)]
        self.warn(Finding("warning", verdict.what, str(path), verdict.fix, place=f"{place}, {field}"))
        return []

    def kept(self, item: _Box) -> bool:
        """Leave groups out."""
        return item.IsGroupOf != 1

    def read(self, files: ImageFiles) -> ObjectBoxes:
        """Read the boxes of an image."""
        assert files.annotations is not None
        size, items = files.image_size(), self.record(files).items
        classes = self.raw.classes((i.LabelName for i in items), files.annotations, "category")
        corners = np.array([(i.XMin, i.YMin, i.XMax, i.YMax) for i in items], np.float32).reshape(-1, 4)
        corners *= np.array([*size[::-1], *size[::-1]], np.float32)
        return ObjectBoxes.within(size, corners, classes)


class OpenImagesTags(_OpenImages[_Label]):
    """The CSV of verified labels; those of confidence 0 are those that people found not to be there."""

    name = "openimages_tags"
    kind = "tags"
    schema = _Label
    items = msgspec.json.Decoder(list[_Label])

    def kept(self, item: _Label) -> bool:
        """Leave refuted labels out."""
        return item.Confidence > 0

    def read(self, files: ImageFiles) -> ImageTags:
        """Read the labels of an image."""
        assert files.annotations is not None
        return self.raw.tags((i.LabelName for i in self.record(files).items), files.annotations)
