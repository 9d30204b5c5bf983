"""Lists of tags: a JSON of {id: [tag, ...]}."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from manyseg.data.encodings.base import ImageFiles, ImageTags
from manyseg.data.encodings.records import Record, RecordEncoding, load_json

__all__ = ["TagLists"]


class TagLists(RecordEncoding):
    """A JSON of {id: [tag, ...]}; a class without a value is called by its name."""

    name = "tags"
    kind = "tags"
    values = "word"
    named = True

    def key(self, files: ImageFiles) -> str:
        """Return the image's id."""
        return files.id

    def parse(self, path: Path) -> Iterator[tuple[str, Record]]:
        """Read the tags of every image."""
        for name, tags in load_json(path).items():
            if not isinstance(tags, list):
                raise TypeError(f"the tags of '{name}' are no list")
            yield name, Record(None, tags)

    def read(self, files: ImageFiles) -> ImageTags:
        """Read the tags of an image."""
        assert files.annotations is not None
        return self.raw.tags(self.record(files).items, files.annotations)
