"""A card describes a dataset once and for all: where its files are, and which raw value is which class.

A card is a TOML file; docs/datasets.md explains it with examples. Raw values are what the annotation files hold: pixel
values, `"#rrggbb"` colours, COCO category ids, or tags.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    PrivateAttr,
    StrictStr,
    field_validator,
    model_validator,
)

from manyseg.config import check, parse_toml, read_toml
from manyseg.data import pattern
from manyseg.data.classes import CardClass, StrictRaw, join_classes
from manyseg.data.encodings import ENCODINGS, Encoding, Overlap, Raw, RawValues, Said, find_encoding
from manyseg.data.files import exists
from manyseg.data.pattern import fields
from manyseg.data.photo import Exif
from manyseg.data.stores import read_url, url_of
from manyseg.errors import UserError, close
from manyseg.labels import IGNORE, LabelClass, LabelSpace
from manyseg.labels.colors import parse_color
from manyseg.textfile import decode, read_text

__all__ = ["Card", "CardClass", "builtin_cards", "builtin_text", "card_text", "read_card"]

ALL_OTHERS = "*"


class Card(BaseModel):
    """A dataset's files, encoding, splits and classes; patterns are relative to the root that `load` is given.

    `splits`: a value ending in .txt or .lst is a list of ids, relative to the root or else to the card's own folder;
    any other value replaces `{split}` in the patterns, and the ids are what the image pattern matches. With a list,
    `{split}` is the split's own name. `all[:80%]`, or `all[:600]`, is a part of the split `all`, in order of ids.
    `ignore`: raw values that are known, and mean that a pixel has no label. Any other raw value is an error, unless
    `ignore` has "*" where files name classes: vocabularies of tags and boxes can be too large to list.
    `bands` are those of the image that are red, green and blue, counted from 1, or the one that is grey; `range` are
    the values that are black and white.
    `exif` says whether annotations were made on images turned as their EXIF orientation says ("applied") or on the
    pixels as stored ("ignored"); without it the annotation's size tells, and where it does not, it is an error.
    `merge` joins classes under a new name, and pixels of the classes in `drop` have no label; no file changes.
    `overlap` and `background` are for objects that are drawn: which one has a pixel under several ("smallest"; "last"
    or "first" in the order of the file; "none", where they are of several classes), and the class of pixels under no
    object, which have no label unless it is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: StrictStr = Field(description="What the dataset is called everywhere.")
    image: StrictStr = Field(description="Pattern of the images: has `{id}`, and `{split}` where splits are folders.")
    mask: StrictStr | None = Field(default=None, description="Pattern of the index, colour or segment PNGs.")
    instances: StrictStr | None = Field(
        default=None, description="With `index`, pattern of 16-bit PNGs of instance numbers."
    )
    annotations: StrictStr | None = Field(default=None, description="Pattern of JSON, XML, CSV or text files.")
    encoding: StrictStr = Field(description="How annotation files spell labels; the list is in datasets.md.")
    bands: tuple[PositiveInt, PositiveInt, PositiveInt] | tuple[PositiveInt] | None = Field(
        default=None,
        description="Bands that are red, green and blue, from 1; or the one that is grey.",
    )
    range: tuple[FiniteFloat, FiniteFloat] | None = Field(
        default=None,
        description="Values that are black and white, for more than 8 bits.",
    )
    exif: Exif | None = Field(
        default=None,
        description="Whether annotations are of images turned by EXIF; by default their size tells.",
    )
    splits: dict[str, StrictStr] = Field(
        description="A list of ids (.txt, .lst), what `{split}` stands for, or a part: `all[:80%]`."
    )
    ignore: tuple[StrictRaw, ...] = Field(default=(), description='Raw values without a label; `"*"` is all others.')
    merge: dict[str, tuple[StrictStr, ...]] = Field(
        default={}, description="New classes, each with those that it joins."
    )
    drop: tuple[StrictStr, ...] = Field(
        default=(), description="Classes that are left out: their pixels have no label."
    )
    overlap: Overlap | None = Field(default=None, description="Which of several drawn objects has a pixel.")
    background: StrictStr | None = Field(default=None, description="The class of pixels under no drawn object.")
    classes: dict[str, CardClass] = Field(description="The classes by name; see below.")
    _place: Path | None = PrivateAttr(default=None)

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str) -> str:
        if name not in ENCODINGS:
            known = ", ".join(ENCODINGS)
            raise ValueError(f"is no encoding{close(name, list(ENCODINGS))}; there are: {known}")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> Card:
        self._check_files()
        self._check_drawn()
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError(f"range = {list(self.range)}: black comes first, and is less than white")
        self._check_values()
        _ = self.members  # Its own checks, as has the label space: names, colours, at least one class.
        things = any(c.thing for c in self.space.classes)
        if self.reader.kind == "segments" and not self.reader.objects and not things:
            raise ValueError("no class has `thing = true`, so all instances would be lost; mark the countable classes")
        return self

    def _check_files(self) -> None:
        needed, possible = self.reader.needs, self.reader.may_have
        given = {k for k in ("mask", "instances", "annotations") if getattr(self, k) is not None}
        if needed - given:
            raise ValueError(f"encoding '{self.encoding}' needs the key `{min(needed - given)}`; add it")
        if given - needed - possible:
            raise ValueError(
                f"encoding '{self.encoding}' does not read the key `{min(given - needed - possible)}`; remove it"
            )
        names = fields(self.image)
        if not names or ("id" in names and len(names) > 1):
            raise ValueError(f"image = \"{self.image}\" needs '{{id}}', or else names like '{{scene}}' and '{{frame}}'")
        for key in ("image", *sorted(given)):
            if "\\" in getattr(self, key):
                raise ValueError(f"{key} = '{getattr(self, key)}': write / between folders, not a backslash")
            pattern.check_below(key, getattr(self, key))
        for split, value in self.splits.items():
            pattern.check_below(f"splits.{split}", value)
        # A file of annotations is of one image, or of all.
        for key in given if self.reader.per_image else given - {"annotations"}:
            other = set(fields(getattr(self, key)))
            if other != set(names):
                wanted = ", ".join(f"{{{name}}}" for name in sorted(names))
                raise ValueError(f'{key} = "{getattr(self, key)}" is to have the names that `image` has: {wanted}')
        if not self.splits:
            raise ValueError('`splits` is empty; name at least one, such as { train = "train.txt" }')
        for split, value in self.splits.items():
            if (part := pattern.part(value)) is None:
                continue
            if part.split not in self.splits or pattern.part(self.splits[part.split]) is not None:
                raise ValueError(
                    f"splits.{split} = \"{value}\" is a part of '{part.split}', which is no whole split here"
                )
        folders = [v for v in self.splits.values() if not is_list(v) and pattern.part(v) is None]
        if len(folders) > 1 and "{split}" not in self.image:
            raise ValueError(
                "several splits are folders, but `image` has no '{split}', so that all would be the same images; write "
                "it where the folder's name goes"
            )

    def _check_drawn(self) -> None:
        given = [k for k in ("overlap", "background") if getattr(self, k) is not None]
        if given and not self.reader.drawn:
            raise ValueError(
                f"encoding '{self.encoding}' does not read the key `{given[0]}`, as it draws no objects; remove it"
            )
        if self.background is not None and self.background not in self.classes:
            raise ValueError(f'background = "{self.background}" is no class of the card; add it to [classes]')

    def _check_values(self) -> None:
        owner: dict[Raw, str] = {}
        for name, values in [*((n, self._own_values(n)) for n in self.classes), ("ignore", self.ignore)]:
            if not values and name not in ("ignore", self.background):
                raise ValueError(f"class '{name}' has no value; give it one, or remove it")
            for value in values:
                self._check_value(name, value)
                key = value.lower() if self.reader.values == "color" and isinstance(value, str) else value
                if key in owner:
                    raise ValueError(
                        f"value {value} belongs to both '{owner[key]}' and '{name}'; leave it in one of them"
                    )
                owner[key] = name

    def _check_value(self, name: str, value: Raw) -> None:
        if self.reader.values == "color":
            if not isinstance(value, str):
                raise ValueError(f"'{name}': value {value} is not a colour; write \"#rrggbb\"")
            parse_color(value)
        elif self.reader.values == "word" or (self.reader.values == "number or name" and isinstance(value, str)):
            if value == ALL_OTHERS and name != "ignore":
                raise ValueError(f"'{name}': \"*\" stands for all other values, and goes into `ignore`")
        else:
            limit = self.reader.limit
            # The official instance ids have a licence plate at -1; it reaches the files as 0.
            if not isinstance(value, int) or not 0 <= value < limit:
                raise ValueError(f"'{name}': value {value!r} is not a whole number from 0 to {limit - 1}")

    def _own_values(self, name: str) -> tuple[Raw, ...]:
        """List the raw values of one of `classes`; where files name classes, one without a value is called so."""
        value = self.classes[name].value
        return (name,) if self.reader.named and not value else value

    def values(self, name: str) -> tuple[Raw, ...]:
        """List the raw values of a class of the label space."""
        return tuple(v for member in self.members[name] for v in self._own_values(member))

    def relabelled(self, merge: Mapping[str, Sequence[str]], drop: Sequence[str]) -> Card:
        """Return this card with classes of its label space joined or dropped as well; raises UserError as the keys."""
        if not merge and not drop:
            return self
        try:
            left = join_classes(self.space.names, merge, drop)
        except ValueError as e:
            raise UserError(f"card '{self.name}': {e}") from None
        members = {new: tuple(m for name in old for m in self.members[name]) for new, old in left.items()}
        kept = {m for group in members.values() for m in group}
        changes = {
            "merge": {new: group for new, group in members.items() if group != (new,)},
            "drop": tuple(name for name in self.classes if name not in kept),
        }
        card = Card.model_validate(self.model_dump() | changes)
        card._place = self._place
        return card

    def list_path(self, root: Path, split: str) -> Path:
        """Return where the list of a split is: below `root`, or beside the card if it is not there but here."""
        below = root / self.splits[split]
        if self._place is not None and not exists(below) and (beside := self._place / self.splits[split]).exists():
            return beside
        return below

    def whole(self, split: str) -> str:
        """Return the split that the images of `split` are listed by: itself, or the one that it is a part of."""
        part = pattern.part(self.splits[split])
        return split if part is None else part.split

    @property
    def reader(self) -> type[Encoding]:
        """The encoding that reads the files."""
        return find_encoding(self.encoding)

    @property
    def kind(self) -> str:
        """The kind of annotation that the files hold: a key of `annotation.KINDS`."""
        return "segments" if self.instances is not None else self.reader.kind

    @cached_property
    def members(self) -> dict[str, tuple[str, ...]]:
        """The classes of the label space, each with those of `classes` that it is made of."""
        return join_classes(tuple(self.classes), self.merge, self.drop)

    @cached_property
    def space(self) -> LabelSpace:
        """The label space: the card's classes in its order, joined and dropped as it says."""
        return LabelSpace(self.name, tuple(self._label_class(name) for name in self.members))

    def _label_class(self, name: str) -> LabelClass:
        """Return a class of the label space; a joined one says of itself what its member of the same name says."""
        members = self.members[name]
        colors = [self._color(m) for m in (name, *members) if m in members]
        said = self.classes[name] if name in members else CardClass()
        thing = any(self._is_thing(m) for m in members)
        return LabelClass(name, next((c for c in colors if c), None), thing, said.description, said.synonyms)

    def _color(self, name: str) -> tuple[int, int, int] | None:
        said = self.classes[name]
        return parse_color(str(said.value[0])) if self.reader.values == "color" and said.color is None else said.color

    def _is_thing(self, name: str) -> bool:
        said, objects = self.classes[name].thing, self.reader.objects or self.instances is not None
        return objects and name != self.background if said is None else said

    @cached_property
    def positions(self) -> dict[Raw, int]:
        """The class position of every raw value of a class; ignored values have none."""
        return {v: i for i, name in enumerate(self.members) for v in self.values(name)}

    @cached_property
    def raw_values(self) -> RawValues:
        """What raw values mean, for the encoding that reads them."""
        dropped = [v for name in self.drop for v in self._own_values(name)]
        ignored: dict[Raw, int] = dict.fromkeys((*self.ignore, *dropped), IGNORE)
        others = self.reader.values == "word" and ignored.pop(ALL_OTHERS, None) is not None
        identified = np.array([all(self.classes[m].thing is True for m in group) for group in self.members.values()])
        background = [i for i, group in enumerate(self.members.values()) if self.background in group]
        said = {v: Said(name, c.thing) for name, c in self.classes.items() for v in self._own_values(name)}
        overlap = self.overlap or "smallest"
        return RawValues(ignored | self.positions, others, identified, said, overlap, *(background or [IGNORE]))


def is_list(split: str) -> bool:
    """Say whether a split's value names a list of ids, not a folder."""
    return split.endswith((".txt", ".lst"))


@cache
def builtin_cards() -> tuple[str, ...]:
    """List the names of the cards that come with the package."""
    return tuple(sorted(p.name.removesuffix(".toml") for p in _builtin().iterdir() if p.name.endswith(".toml")))


def builtin_text(name: str) -> str:
    """Return the file of a built-in card."""
    return str((_builtin() / f"{name}.toml").read_text(encoding="utf-8"))


def card_text(name_or_path: str | Path) -> str:
    """Return the file of a card, given as `read_card` takes it; raises UserError where it cannot be read."""
    name = str(name_or_path)
    if name in builtin_cards():
        return builtin_text(name)
    try:
        url = url_of(name)
        return read_text(Path(name)) if url is None else decode(read_url(url))
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{name}: the card cannot be read ({' '.join(str(e).split())}); correct its place") from None


def _builtin() -> Any:
    return files("manyseg.data") / "cards"


@cache
def _read_builtin(name: str) -> Card:
    return check(Card, parse_toml(builtin_text(name), name), f"card '{name}'")


def read_card(name_or_path: str | Path) -> Card:
    """Read a built-in card by name, or any card by the path of its file.

    Raises UserError naming the file and the key at fault.
    """
    name = str(name_or_path)
    if name in builtin_cards():
        return _read_builtin(name)
    if (url := url_of(name)) is not None:
        return check(Card, parse_toml(card_text(url), url), url)
    if not os.path.exists(name):
        known = builtin_cards()
        raise UserError(
            f"{name}: there is no such card{close(name, known)}; give the path of a .toml file, or one of: "
            f"{', '.join(known)}"
        )
    card = check(Card, read_toml(Path(name)), name)
    card._place = Path(name).parent
    return card
