"""A card describes a dataset once and for all: where its files are, and which raw value is which class.

A card is a TOML file; docs/datasets.md explains it with examples. Raw values are what the annotation files hold: pixel
values, `"#rrggbb"` colours, COCO category ids, or tags.
"""

from __future__ import annotations

import re
import tomllib
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr, ValidationError, field_validator, model_validator

from manyseg.data.pattern import fields
from manyseg.errors import UserError
from manyseg.labels import LabelClass, LabelSpace

__all__ = ["Card", "CardClass", "builtin_cards", "read_card"]

Raw = StrictInt | StrictStr

Encoding = Literal[
    "index",
    "color",
    "instance_ids",
    "coco_panoptic",
    "coco_instances",
    "coco_boxes",
    "voc_boxes",
    "openimages_boxes",
    "openimages_tags",
    "tags",
]

# What each encoding reads: keys that it needs, keys that it may have.
KEYS: dict[str, tuple[set[str], set[str]]] = {
    "index": ({"mask"}, {"instances"}),
    "color": ({"mask"}, set()),
    "instance_ids": ({"mask"}, set()),
    "coco_panoptic": ({"mask", "annotations"}, set()),
    "coco_instances": ({"annotations"}, set()),
    "coco_boxes": ({"annotations"}, set()),
    "voc_boxes": ({"annotations"}, set()),
    "openimages_boxes": ({"annotations"}, set()),
    "openimages_tags": ({"annotations"}, set()),
    "tags": ({"annotations"}, set()),
}
LIMITS = {"index": 1 << 16, "instance_ids": 1000}

# Encodings whose files name classes; for the first two a class that gives no value is called by its own name.
WORDS = ("tags", "voc_boxes", "openimages_boxes", "openimages_tags")
OWN_NAMES = ("tags", "voc_boxes")

ALL_OTHERS = "*"


class CardClass(BaseModel):
    """One class of a card: its raw values and what is known of it.

    `thing` left out means true where the encoding has nothing but objects or comes with `instances`, else false. Said
    to be true, it also means that every object has an id: pixels without one (a group, instance 0) are then ignored in
    segments, for their objects are unknown, and not taken for one object.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: tuple[Raw, ...] = ()
    color: tuple[int, int, int] | None = None
    thing: bool | None = None
    description: str = ""
    synonyms: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return data if isinstance(data, dict | CardClass) else {"value": data}

    @field_validator("value", mode="before")
    @classmethod
    def _one_value(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list | tuple) else (value,)

    @field_validator("color", mode="before")
    @classmethod
    def _hex_color(cls, color: Any) -> Any:
        return parse_color(color) if isinstance(color, str) else color


class Card(BaseModel):
    """A dataset's files, encoding, splits and classes; patterns are relative to the root that `load` is given.

    `splits`: a value ending in .txt or .lst is a list of ids relative to the root; any other value replaces `{split}`
    in the patterns, and the ids are what the image pattern matches. With a list, `{split}` is the split's own name.
    `ignore`: raw values that are known, and mean that a pixel has no label. Any other raw value is an error, unless
    `ignore` has "*" where files name classes: vocabularies of tags and boxes can be too large to list.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: StrictStr
    image: StrictStr
    mask: StrictStr | None = None
    instances: StrictStr | None = None
    annotations: StrictStr | None = None
    encoding: Encoding
    splits: dict[str, StrictStr]
    ignore: tuple[Raw, ...] = ()
    classes: dict[str, CardClass]

    @model_validator(mode="after")
    def _fits_together(self) -> Card:
        self._check_files()
        self._check_values()
        if self.encoding in ("instance_ids", "coco_panoptic") and not any(c.thing for c in self.classes.values()):
            raise ValueError("no class has `thing = true`, so all instances would be lost; mark the countable classes")
        _ = self.space  # its own checks: names, colours, at least one class
        return self

    def _check_files(self) -> None:
        needed, possible = KEYS[self.encoding]
        given = {k for k in ("mask", "instances", "annotations") if getattr(self, k) is not None}
        if needed - given:
            raise ValueError(f"encoding '{self.encoding}' needs the key `{min(needed - given)}`")
        if given - needed - possible:
            raise ValueError(f"encoding '{self.encoding}' does not read the key `{min(given - needed - possible)}`")
        names = fields(self.image)
        if not names or ("id" in names and len(names) > 1):
            raise ValueError(f"image = \"{self.image}\" needs '{{id}}', or else names like '{{scene}}' and '{{frame}}'")
        # A file of annotations is of one image, or of all.
        for key in given if self.encoding == "voc_boxes" else given - {"annotations"}:
            other = set(fields(getattr(self, key)))
            if other != set(names):
                raise ValueError(f"`{key}` has the names {sorted(other)} but `image` has {sorted(names)}")
        if not self.splits:
            raise ValueError('`splits` is empty; name at least one, such as { train = "train.txt" }')
        folders = [v for v in self.splits.values() if not is_list(v)]
        if len(folders) > 1 and "{split}" not in self.image:
            raise ValueError("several splits are folders, but `image` has no '{split}'; all would be the same images")

    def _check_values(self) -> None:
        owner: dict[Raw, str] = {}
        for name, values in [*((n, self.values(n)) for n in self.classes), ("ignore", self.ignore)]:
            if not values and name != "ignore":
                raise ValueError(f"class '{name}' has no value")
            for value in values:
                self._check_value(name, value)
                key = value.lower() if self.encoding == "color" and isinstance(value, str) else value
                if key in owner:
                    raise ValueError(f"value {value} belongs to both '{owner[key]}' and '{name}'")
                owner[key] = name

    def _check_value(self, name: str, value: Raw) -> None:
        if self.encoding == "color":
            if not isinstance(value, str):
                raise ValueError(f"'{name}': value {value} is not a colour; write \"#rrggbb\"")
            parse_color(value)
        elif self.encoding in WORDS:
            if value == ALL_OTHERS and name != "ignore":
                raise ValueError(f"'{name}': \"*\" stands for all other values, and goes into `ignore`")
        else:
            limit = LIMITS.get(self.encoding, 1 << 31)
            # The official instance ids have a licence plate at -1; it reaches the files as 0.
            if not isinstance(value, int) or not 0 <= value < limit:
                raise ValueError(f"'{name}': value {value!r} is not a whole number from 0 to {limit - 1}")

    def values(self, name: str) -> tuple[Raw, ...]:
        """List the raw values of class `name`; a tag or an XML box that gives none is its class's name."""
        value = self.classes[name].value
        return (name,) if self.encoding in OWN_NAMES and not value else value

    @property
    def ignores_others(self) -> bool:
        """Whether values that the card does not name mean nothing, rather than being an error."""
        return self.encoding in WORDS and ALL_OTHERS in self.ignore

    @property
    def kind(self) -> str:
        """The kind of annotation that the files hold: a key of `annotation.KINDS`."""
        if self.encoding in ("instance_ids", "coco_panoptic", "coco_instances") or self.instances is not None:
            return "segments"
        return self.encoding.rpartition("_")[2] if self.encoding.endswith(("boxes", "tags")) else "dense"

    @cached_property
    def space(self) -> LabelSpace:
        """The label space: the card's classes, in its order."""
        objects = self.encoding.endswith(("_instances", "_boxes")) or self.instances is not None
        return LabelSpace(
            self.name,
            tuple(
                LabelClass(
                    name,
                    parse_color(str(c.value[0])) if self.encoding == "color" and c.color is None else c.color,
                    objects if c.thing is None else c.thing,
                    c.description,
                    c.synonyms,
                )
                for name, c in self.classes.items()
            ),
        )

    @cached_property
    def positions(self) -> dict[Raw, int]:
        """The class position of every raw value that the card names; ignored values have none."""
        return {v: i for i, name in enumerate(self.classes) for v in self.values(name)}


def is_list(split: str) -> bool:
    """Say whether a split's value names a list of ids, not a folder."""
    return split.endswith((".txt", ".lst"))


def parse_color(text: str) -> tuple[int, int, int]:
    """Read "#rrggbb"; raises ValueError for anything else."""
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise ValueError(f'"{text}" is not a colour; write "#rrggbb"')
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def builtin_cards() -> list[str]:
    """List the names of the cards that come with the package."""
    return sorted(p.name.removesuffix(".toml") for p in _builtin().iterdir() if p.name.endswith(".toml"))


def _builtin() -> Any:
    return files("manyseg.data") / "cards"


def read_card(name_or_path: str | Path) -> Card:
    """Read a built-in card by name, or any card by the path of its file.

    Raises UserError naming the file and the key at fault.
    """
    name = str(name_or_path)
    if name in builtin_cards():
        return _parse(f"card '{name}'", (_builtin() / f"{name}.toml").read_text(encoding="utf-8"))
    try:
        text = Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{name}: there is no such card; give the path of a .toml file, or one of: {', '.join(builtin_cards())}"
        ) from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{name}: the card cannot be read ({e}); save it as UTF-8 TOML") from None
    return _parse(name, text)


def _parse(where: str, text: str) -> Card:
    try:
        return Card.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as e:
        raise UserError(f"{where}: not valid TOML: {e}") from None
    except ValidationError as e:
        error = e.errors()[0]
        key = ".".join(str(k) for k in error["loc"])
        if error["type"] == "extra_forbidden":
            model = CardClass if error["loc"][0] == "classes" else Card
            raise UserError(f"{where}: unknown key '{key}'; valid keys: {', '.join(model.model_fields)}") from None
        message = str(error["msg"]).removeprefix("Value error, ")
        raise UserError(f"{where}: {key + ': ' if key else ''}{message}") from None
    except UserError as e:
        raise UserError(f"{where}: {e}") from None
