"""Records: what one annotation file says of many images."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from manyseg.data.encodings.base import Encoding, ImageFiles
from manyseg.data.files import DataError, Size
from manyseg.errors import UserError

__all__ = ["Record", "RecordEncoding", "load_json"]


class Record(NamedTuple):
    """What an annotation file says of one image: its size (height, width) where given, and its objects or tags."""

    size: Size | None
    items: list[Any]


class Records:
    """The records of one annotation file, by the name that it gives the image.

    The file is parsed once; a record is kept as JSON text, a small part of the memory of its objects, which forked
    workers share without copying.
    """

    def __init__(self, path: Path, records: Iterable[tuple[str, Record]]) -> None:
        self.path = path
        self._texts = {name: json.dumps(record, separators=(",", ":")).encode() for name, record in records}

    def __getitem__(self, name: str) -> Record:
        """Find the record of `name`, a path whose leading folders the file may have left out."""
        rest = name
        while rest not in self._texts and "/" in rest:
            rest = rest.split("/", 1)[1]
        if rest not in self._texts:
            raise DataError(self.path, f"it has no entry for '{name}'", "remove the image or complete the file")
        size, items = json.loads(self._texts[rest])
        return Record(tuple(size) if size else None, items)


class RecordEncoding(Encoding):
    """An encoding of one annotation file for all images of a split."""

    needs = frozenset({"annotations"})
    _records: Records | None = None

    @abstractmethod
    def parse(self, path: Path) -> Iterator[tuple[str, Record]]:
        """Read the file; a ValueError, KeyError or TypeError says that it is of another kind."""

    def prepare(self, annotations: Path) -> None:
        """Parse the file, unless that is done."""
        if self._records is not None:
            return
        try:
            self._records = Records(annotations, self.parse(annotations))
        except (KeyError, TypeError, AttributeError, ValueError) as e:
            reason = f"no {e}" if isinstance(e, KeyError) else str(e)
            kind = annotations.suffix.lstrip(".").upper()
            raise UserError(
                f"{annotations}: not the {kind} that encoding '{self.name}' reads ({reason}); check the card"
            ) from None

    def record(self, files: ImageFiles) -> Record:
        """Return the record of an image."""
        assert files.annotations is not None
        self.prepare(files.annotations)
        assert self._records is not None
        return self._records[self.key(files)]

    def key(self, files: ImageFiles) -> str:
        """Return what the file calls an image."""
        return files.name

    def size(self, files: ImageFiles) -> Size | None:
        """Return the size that the file gives the image."""
        return self.record(files).size


def load_json(path: Path) -> Any:
    """Read a JSON file; raises UserError if it is not there or no JSON."""
    try:
        with path.open("rb") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such annotation file; check the card and the root") from None
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: unreadable or truncated JSON ({e}); fetch the file again") from None
