"""Lists of tags: a JSON of {id: [tag, ...]}."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from manyseg.data.encodings.base import ImageFiles, ImageTags
from manyseg.data.encodings.records import ImageRecord, RecordEncoding
from manyseg.data.encodings.schema import BROKEN_JSON, Fault, read_bytes, shown
from manyseg.errors import UserError

__all__ = ["TagLists"]

Tag = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)] | str


class TagLists(RecordEncoding[int | str]):
    """A JSON of {id: [tag, ...]}; a class without a value is called by its name."""

    name = "tags"
    kind = "tags"
    values = "word"
    named = True
    by_name = False
    items = msgspec.json.Decoder(list[Tag])

    def parse(self, path: Path) -> Iterator[ImageRecord]:
        """Read the tags of every image."""
        for name, tags in _entries(path):
            try:
                msgspec.convert(tags, list[Tag])
                yield ImageRecord(name, None, msgspec.json.encode(tags))
            except msgspec.ValidationError:
                fault = Fault("", f"{shown(tags)} is no list of tags", "write text or whole numbers in brackets")
                yield ImageRecord(name, None, b"", [fault.error(path, f"'{name}'")])

    def read(self, files: ImageFiles) -> ImageTags:
        """Read the tags of an image."""
        assert files.annotations is not None
        return self.raw.tags(self.record(files).items, files.annotations)


class _Entries(list[tuple[str, Any]]):
    """The entries of an object in braces in their order: a dict would hide a name that comes twice."""


def _entries(path: Path) -> _Entries:
    try:
        data = json.loads(read_bytes(path), object_pairs_hook=_Entries)
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path}: unreadable or truncated JSON ({e}); {BROKEN_JSON}") from None
    if not isinstance(data, _Entries):
        raise UserError(f"{path}: not the JSON that encoding 'tags' reads ({shown(data)}); write {{id: [tag, ...]}}")
    return data
