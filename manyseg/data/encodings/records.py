"""Records: what one annotation file says of many images."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec

from manyseg.data.encodings.base import Encoding, ImageFiles, RawValues
from manyseg.data.encodings.schema import Fault
from manyseg.data.files import DataError
from manyseg.data.finding import Finding
from manyseg.data.finding import kind as kind_of
from manyseg.data.window import Size
from manyseg.errors import UserError

__all__ = ["FAULTS", "ImageRecord", "Record", "RecordEncoding"]

Item = TypeVar("Item")

FAULTS = 20
"""How many faults of one image are kept: enough to see what is wrong, however many there are."""


class ImageRecord(NamedTuple):
    """What an annotation file says of one image: its name and size (height, width), and its checked items as JSON.

    Where there are faults, the items do not count.
    """

    name: str
    size: Size | None
    text: bytes
    faults: Sequence[DataError] = ()

    @classmethod
    def broken(cls, path: Path, place: str, raw: msgspec.Raw, field: str, faults: Sequence[Fault]) -> ImageRecord:
        """Make the record of an image whose own entry is at fault; `field` holds its name, if anything does."""
        entry = msgspec.json.decode(raw)
        name = entry.get(field) if isinstance(entry, dict) else None
        return cls(name if isinstance(name, str) else "", None, b"", [fault.error(path, place) for fault in faults])


class Record(NamedTuple, Generic[Item]):
    """What is known of an image without a fault: its size (height, width) where given, and its objects or tags."""

    size: Size | None
    items: list[Item]


class RecordEncoding(Encoding, Generic[Item]):
    """An encoding of one annotation file for all images of a split, which is read and checked once.

    A record is kept as JSON text, a small part of the memory of its objects, which forked workers share.
    """

    needs = frozenset({"annotations"})
    items: ClassVar[msgspec.json.Decoder[Any]]

    def __init__(self, values: RawValues) -> None:
        super().__init__(values)
        self.file: Path | None = None
        self._texts: list[bytes] = []
        self._names: list[str] = []
        self._sizes: list[Size | None] = []
        self._faults: dict[int, DataError] = {}
        self._warnings: dict[tuple[str, str | None], Finding] = {}
        self._ends: dict[tuple[str, ...], list[int]] = {}
        self._found: dict[str, int | DataError] = {}

    @abstractmethod
    def parse(self, path: Path) -> Iterator[ImageRecord]:
        """Read the file, an image at a time; a msgspec.ValidationError says that it is of another kind."""

    def prepare(self, annotations: Path, images: Sequence[str]) -> None:
        """Read the file, unless that is done, and find the record of each of `images`, the split's names for them."""
        if self.file is not None:
            return
        try:
            for record in self.parse(annotations):
                self._add(record)
        except (KeyError, TypeError, AttributeError, ValueError) as e:  # msgspec's errors among them
            kind = annotations.suffix.lstrip(".").upper()
            raise UserError(
                f"{annotations}: not the {kind} that encoding '{self.name}' reads ({_reason(e)}); check the card"
            ) from None
        self.file = annotations
        self._match(images)

    def _add(self, record: ImageRecord) -> None:
        number = len(self._names)
        self._names.append(record.name)
        self._sizes.append(record.size)
        self._texts.append(record.text)
        if record.faults:
            self._faults[number] = DataError.joined(record.faults[:FAULTS])
            self._texts[number] = b""

    def warn(self, finding: Finding) -> None:
        """Keep what is worth a look; the same of further places is counted."""
        key = kind_of(finding.what), finding.value
        known = self._warnings.get(key)
        self._warnings[key] = finding if known is None else replace(known, places=known.places + 1)

    def _match(self, images: Sequence[str]) -> None:
        """Find the record of every image, and those that would be taken for two images."""
        for number, name in enumerate(self._names):
            self._ends.setdefault(_parts(name)[-1:], []).append(number)
        names = [self.called(image) for image in images]
        self._found = {name: self._find(name) for name in names}
        uses = Counter(number for number in self._found.values() if isinstance(number, int))
        twice = {number for number, count in uses.items() if count > 1}
        meant: dict[int, list[str]] = {number: [] for number in twice}
        for name, found in self._found.items():
            if isinstance(found, int) and found in twice:
                meant[found].append(name)
        for number, names in meant.items():
            for name in names:
                self._found[name] = self._shared(name, next(n for n in names if n != name), number)

    def _shared(self, name: str, other: str, number: int) -> DataError:
        assert self.file is not None
        what = "one entry is meant for two images"
        fix = "write their folders into the file's names of images"
        return DataError(self.file, what, fix, place=f"'{self._names[number]}' for '{name}' and for '{other}'")

    def _find(self, name: str) -> int | DataError:
        """Find the record of `name`, a path whose leading folders the file may have left out, or have more of.

        More folders than the name has are trusted only where the name has a folder too.
        """
        assert self.file is not None
        parts = _parts(name)
        near = self._ends.get(parts[-1:], [])
        theirs = {n: _parts(self._names[n]) for n in near}
        found = [n for n in near if theirs[n] == parts]
        if self.by_name and not found:
            shorter = [n for n in near if parts[-len(theirs[n]) :] == theirs[n]]
            longest = max((len(theirs[n]) for n in shorter), default=0)
            found = [n for n in shorter if len(theirs[n]) == longest]
        if self.by_name and not found and len(parts) > 1:
            found = [n for n in near if theirs[n][-len(parts) :] == parts]
        if len(found) == 1:
            return found[0]
        if found:
            names = " and ".join(f"'{self._names[n]}'" for n in found[:2])
            what, fix = "an image has more than one entry", "join its entries, or name the images by their folders"
            return DataError(self.file, what, fix, place=f"'{name}': {names}")
        example = self._names[near[0] if near else 0] if self._names else None
        like = "it has no entry at all" if example is None else f"it names its images like '{example}'"
        what, fix = f"it has no entry for this image ({like})", "correct the names, or remove the image from the split"
        return DataError(self.file, what, fix, place=f"'{name}'")

    def record(self, files: ImageFiles) -> Record[Item]:
        """Return the record of an image, or raise what is wrong with it."""
        number = self._number(files)
        if isinstance(number, DataError):
            raise number
        if number in self._faults:
            raise self._faults[number]
        return Record(self._sizes[number], self.items.decode(self._texts[number]))

    def _number(self, files: ImageFiles) -> int | DataError:
        name = self.called(files.name if self.by_name else files.id)
        return self._found[name] if name in self._found else self._find(name)

    def called(self, image: str) -> str:
        """Return what the file calls an image, given its path (`by_name`) or id."""
        return image

    def size(self, files: ImageFiles) -> Size | None:
        """Return the size that the file gives the image."""
        number = self._number(files)
        return None if isinstance(number, DataError) else self._sizes[number]

    def findings(self) -> Iterator[Finding]:
        """Say what is worth a look in the file."""
        yield from self._warnings.values()

    def unused(self) -> list[str]:
        """List the names of entries that belong to no image of the split."""
        used = {number for number in self._found.values() if isinstance(number, int)}
        return [name for number, name in enumerate(self._names) if number not in used]


def _parts(name: str) -> tuple[str, ...]:
    """Take a path apart; backslashes and `./` mean what they do where the file was made."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _reason(error: Exception) -> str:
    """Say what a file lacks: "no 'annotations'"."""
    if isinstance(error, KeyError):
        return f"no {error}"
    return re.sub(r"Object missing required field `(\w+)`.*", r"no '\1'", str(error)).replace("`", "'")
