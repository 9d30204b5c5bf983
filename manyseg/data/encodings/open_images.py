"""Open Images' CSV files: boxes, and labels that people verified."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from manyseg.data.encodings.base import ImageFiles, ImageTags, ObjectBoxes
from manyseg.data.encodings.records import Record, RecordEncoding
from manyseg.errors import UserError
from manyseg.labels import IGNORE

__all__ = ["OpenImagesBoxes", "OpenImagesTags"]


class _OpenImages(RecordEncoding):
    """A CSV with a box or label a row; an image's rows need not be together."""

    values = "word"

    def key(self, files: ImageFiles) -> str:
        """Return the image's id."""
        return files.id

    def parse(self, path: Path) -> Iterator[tuple[str, Record]]:
        """Gather the rows of every image."""
        out: dict[str, list[Any]] = {}
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                for row in csv.DictReader(file):
                    self.add(row, out.setdefault(row["ImageID"], []))
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such annotation file; check the card and the root") from None
        except (OSError, UnicodeDecodeError, csv.Error) as e:
            raise UserError(f"{path}: unreadable CSV ({e}); fetch the file again") from None
        for name, items in out.items():
            yield name, Record(None, items)

    def add(self, row: dict[str, str], items: list[Any]) -> None:
        """Add what a row says to the items of its image."""
        raise NotImplementedError


class OpenImagesBoxes(_OpenImages):
    """The CSV of boxes, in parts of the image's sides; groups of objects are left out."""

    name = "openimages_boxes"
    kind = "boxes"
    objects = True

    def add(self, row: dict[str, str], items: list[Any]) -> None:
        """Add a box, unless it is of a group."""
        if row.get("IsGroupOf") != "1":
            items.append([row["LabelName"], *(float(row[k]) for k in ("XMin", "YMin", "XMax", "YMax"))])

    def read(self, files: ImageFiles) -> ObjectBoxes:
        """Read the boxes of an image."""
        assert files.annotations is not None
        size, items = files.stored_size(), self.record(files).items
        classes = np.array([self.raw.position(i[0], files.annotations, "category") for i in items], np.int64)
        corners = np.array([i[1:] for i in items], np.float32).reshape(-1, 4) * np.array([*size[::-1], *size[::-1]])
        return ObjectBoxes(corners.astype(np.float32)[classes != IGNORE], classes[classes != IGNORE], size)


class OpenImagesTags(_OpenImages):
    """The CSV of verified labels; those of confidence 0 are those that people found not to be there."""

    name = "openimages_tags"
    kind = "tags"

    def add(self, row: dict[str, str], items: list[Any]) -> None:
        """Add a label, unless it was refuted."""
        if float(row.get("Confidence") or 1) > 0:
            items.append(row["LabelName"])

    def read(self, files: ImageFiles) -> ImageTags:
        """Read the labels of an image."""
        assert files.annotations is not None
        return self.raw.tags(self.record(files).items, files.annotations)
