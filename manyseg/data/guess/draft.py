"""A card that is not written yet: what was seen, what is uncertain, and how its text is made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from manyseg import atomic
from manyseg.config import toml_key, toml_value
from manyseg.data.card import read_card
from manyseg.data.encodings import Raw, Regions, found_size
from manyseg.data.folder import Folder
from manyseg.data.guess.splits import Arrangement
from manyseg.data.guess.tree import spread
from manyseg.data.inspection import class_counts
from manyseg.errors import UserError
from manyseg.labels import IGNORE
from manyseg.progress import progress

__all__ = ["Candidate", "Draft", "FoundClass", "Refused", "joined_by_name", "tried"]

COUNTED = 200
"""Images whose pixels are counted for the comments."""


class Refused(NamedTuple):
    """What files look like, and why they cannot be read as that."""

    title: str
    reason: str


class FoundClass(NamedTuple):
    """A class of a draft: its name, what files hold for it, its colour "#rrggbb" and whether it is countable."""

    name: str
    values: tuple[Raw, ...] = ()
    color: str | None = None
    thing: bool | None = None


def joined_by_name(found: Iterable[FoundClass]) -> tuple[FoundClass, ...]:
    """Make names such as label spaces accept, and one class of those with the same name."""
    classes: dict[str, FoundClass] = {}
    for one in found:
        name = " ".join(re.sub(r"[|\x00-\x1f\x7f]", " ", one.name).split()) or "class"
        values = one.values or ((one.name,) if name != one.name else ())
        if name in classes:
            values = (*(classes[name].values or (name,)), *(values or (one.name,)))
        known = classes.get(name, one)
        classes[name] = FoundClass(name, tuple(dict.fromkeys(values)), known.color or one.color, known.thing)
    return tuple(classes.values())


@dataclass(frozen=True)
class Draft:
    """What a card is to say, found in one reading of a folder.

    `keys` are further keys of the card, each with a comment. The lower `rank`, the likelier this reading is.
    """

    title: str
    rank: int
    encoding: str
    arrangement: Arrangement
    classes: Sequence[FoundClass]
    ignore: Sequence[Raw] = ()
    keys: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    saw: Sequence[str] = ()
    unsure: Sequence[str] = ()

    def lists(self, card: Path) -> dict[Path, str]:
        """Return the lists of ids that belong beside the card, and their text."""
        lists = self.arrangement.lists
        return {card.with_name(_list_name(card, split)): "\n".join(ids) + "\n" for split, ids in lists.items()}

    def text(self, name: str, card: Path, root: str | Path, counts: Counts | None = None) -> str:
        """Return the card as TOML, with comments."""
        place = self.arrangement
        splits = {**place.splits, **{split: _list_name(card, split) for split in place.lists}}
        lines = [
            f"Guessed by `manyseg data --guess {root}` from what looks like {self.title}.",
            f"Read the lines with a question mark, correct the card, then run: manyseg data {card} {root}",
            *(f"Seen: {line}" for line in (*self.saw, *place.saw)),
            *(f"? {line}" for line in (*self.unsure, *place.unsure, *(counts.unsure if counts else ()))),
        ]
        out = [f"# {_printable(line)}" for line in lines]
        out += [f"name = {toml_value(name)}"]
        out += [f"{key} = {toml_value(text)}" for key, text in place.patterns.items()]
        out += [f"encoding = {toml_value(self.encoding)}", f"splits = {toml_value(splits)}"]
        out += [f"{key} = {toml_value(value)}  # {_printable(why)}" for key, (value, why) in self.keys.items()]
        if self.ignore:
            share = "" if counts is None else f"  # {counts.share(IGNORE)} of the pixels have no label"
            out += [f"ignore = {toml_value(list(self.ignore))}{share}"]
        out += ["", "[classes]"]
        for position, found in enumerate(self.classes):
            comment = "" if counts is None else f"  # {counts.said(position)}"
            out.append(f"{toml_key(found.name)} = {_class_value(found)}{comment}")
        return "\n".join(out) + "\n"


def _list_name(card: Path, split: str) -> str:
    return f"{card.stem}.{split}.txt"


def _class_value(found: FoundClass) -> str:
    value: Any = found.values[0] if len(found.values) == 1 else list(found.values)
    table = {"value": value} if found.values else {}
    if found.color is not None and (found.color,) != found.values:
        table["color"] = found.color
    if found.thing is not None:
        table["thing"] = found.thing
    return toml_value(value if set(table) == {"value"} else table)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


class Counts(NamedTuple):
    """What was read with a draft: pixels (or boxes) and images of each class, IGNORE last; and what failed."""

    pixels: np.ndarray
    images: np.ndarray
    read: int
    unit: str
    unsure: tuple[str, ...] = ()

    def share(self, position: int) -> str:
        """Return a class's part of the whole, as text."""
        return f"{self.pixels[position] / max(int(self.pixels.sum()), 1):.1%}"

    def said(self, position: int) -> str:
        """Say how often a class occurs."""
        if not self.images[position]:
            return f"in none of the {self.read} images counted"
        return f"{self.pixels[position]} {self.unit} ({self.share(position)}), in {self.images[position]} images"


@dataclass(frozen=True)
class Candidate:
    """A draft that was tried on the folder, with what was counted; `root` is the folder as it was given."""

    draft: Draft
    root: str | Path
    counts: Counts

    def summary(self) -> str:
        """Say in one line what it is."""
        draft = self.draft
        *_, labels = draft.arrangement.patterns.values()
        return (
            f"{draft.title} ({labels}): encoding {draft.encoding}, {len(draft.classes)} classes, "
            f"splits {' '.join(self.splits)}"
        )

    def text(self, card: Path) -> str:
        """Return the text of the card that is to be written at `card`."""
        name = card.stem or Path(self.root).name
        return self.draft.text(name, card, self.root, self.counts)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return (*self.draft.arrangement.splits, *self.draft.arrangement.lists)

    @property
    def unsure(self) -> tuple[str, ...]:
        """What is uncertain, one line each."""
        return (*self.draft.unsure, *self.draft.arrangement.unsure, *self.counts.unsure)

    def files(self, card: Path) -> dict[Path, str]:
        """Return the text of the card, if it is to be written at `card`, and of the lists beside it."""
        return {**self.draft.lists(card), card: self.text(card)}

    def write(self, card: Path, *, force: bool = False) -> list[Path]:
        """Write the card and its lists; raises UserError if one is there, unless `force`."""
        files = self.files(card)
        for path in files:
            atomic.check_target(path)
        there = [path for path in files if path.exists()]
        if there and not force:
            raise UserError(f"{there[0]}: is there already; choose another name, or replace it with --force")
        for path, text in files.items():
            atomic.write(path, text)
        return list(files)


def tried(draft: Draft, root: Path, said: str | Path) -> Candidate | UserError:
    """Read some images as the draft says; returns the first error if none can be read. `root` is called as `said`."""
    with TemporaryDirectory() as place:
        card = Path(place) / "card.toml"
        try:
            for path, text in {**draft.lists(card), card: draft.text("guess", card, root)}.items():
                atomic.write(path, text)
            parsed = read_card(card)
            folders = [Folder(parsed, root, split) for split in parsed.splits]
            counts = _counted(folders)
        except UserError as e:
            return UserError(str(e).replace(f"{card}: ", ""))
    return Candidate(_countable(draft, folders[0]), said, counts)


def _countable(draft: Draft, folder: Folder) -> Draft:
    objects = folder.card.kind in ("segments", "boxes") and all(c.thing is None for c in draft.classes)
    if not objects or folder.card.kind == "boxes":
        return draft
    said = "every class is taken to be countable; write `thing = false` for stuff, such as road or sky"
    return replace(draft, unsure=(*draft.unsure, said))


def _counted(folders: Sequence[Folder]) -> Counts:
    places = [(k, i) for k, folder in enumerate(folders) for i in range(len(folder))]
    chosen = spread(places, COUNTED)
    rows, errors = [], []
    with progress("counting pixels", len(chosen)) as done:
        for k, index in chosen:
            done()
            try:
                rows.append(_row(folders[k], index))
            except UserError as e:
                errors.append(e)
    if not rows:
        raise errors[0]
    unsure = [f"{len(errors)} of {len(chosen)} images cannot be read, the first: {errors[0]}"] if errors else []
    if len(chosen) < len(places):
        unsure.append(f"counts are of {len(chosen)} of the {len(places)} images")
    table = np.array(rows)
    unit = {"boxes": "boxes", "tags": "images"}.get(folders[0].annotation, "pixels")
    return Counts(table.sum(0), (table > 0).sum(0), len(rows), unit, tuple(unsure))


def _row(folder: Folder, index: int) -> np.ndarray:
    """Count the pixels (boxes, tags) of each class of an image, those without a label last; checks the image's size."""
    files = folder.files(index)
    row = np.zeros(len(folder.space) + 1, np.int64)
    size, pixels = None, 0
    for part in folder.parts(files):
        found = folder.found(part)
        for position, count in class_counts(found, objects=folder.annotation == "segments").items():
            row[position] += count
        size = found_size(found)
        pixels += found.plane.size if isinstance(found, Regions) else 0
    if files.banded:
        folder.check_size(files, files.image_size())
    else:
        with folder.opened(files, size):
            pass
    if pixels:
        row[IGNORE] = pixels - row.sum()
    return row
