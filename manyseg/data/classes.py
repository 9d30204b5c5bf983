"""The classes of a card: what each says of itself, and how they are joined or dropped.

The label space and every encoding follow what `join_classes` returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, field_validator, model_validator

from manyseg.errors import close
from manyseg.labels.colors import parse_color

__all__ = ["CardClass", "StrictRaw", "join_classes"]

StrictRaw = StrictInt | StrictStr

Channel = Annotated[StrictInt, Field(ge=0, le=255)]


class CardClass(BaseModel):
    """One class of a card: its raw values and what is known of it.

    `thing` left out means true where the encoding has nothing but objects or comes with `instances`, else false. Said
    to be true, it also means that every object has an id: pixels without one (a group, instance 0) are then ignored in
    segments, for their objects are unknown, and not taken for one object.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: tuple[StrictRaw, ...] = Field(default=(), description="Raw values; words may be left out.")
    color: tuple[Channel, Channel, Channel] | None = Field(default=None, description='`"#rrggbb"` or three numbers.')
    thing: bool | None = Field(default=None, description="Whether it is countable.")
    description: str = Field(default="", description="What it means; `manyseg labels` reads it.")
    synonyms: tuple[str, ...] = Field(
        default=(), description="Other words for it, by which names are united; `manyseg labels` reads them."
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        if isinstance(data, dict) and data and not any(key in cls.model_fields for key in data):
            first, meant = next(iter(data)), close(str(next(iter(data))), list(cls.model_fields))
            raise ValueError(
                f"'{first}' is no key of a class{meant or ''}; a name that holds a dot is written in quotes, as "
                f'"... .{first}" = 3; keys: {", ".join(cls.model_fields)}'
            )
        return data if isinstance(data, dict | CardClass) else {"value": data}

    @field_validator("value", mode="before")
    @classmethod
    def _one_value(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list | tuple) else (value,)

    @field_validator("color", mode="before")
    @classmethod
    def _hex_color(cls, color: Any) -> Any:
        return parse_color(color) if isinstance(color, str) else color


def join_classes(
    names: Sequence[str], merge: Mapping[str, Sequence[str]], drop: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Return the classes that are left, each with those of `names` that it is made of, in the order of the first one.

    `merge` gives the members of new classes; a new class may have the name of one of its members. Raises ValueError
    for a name that is none of `names`, one that is asked for twice, and a new class called like one that is kept.
    """
    owner: dict[str, str] = {}
    for key, listed in [*((f"merge.{new}", members) for new, members in merge.items()), ("drop", drop)]:
        members = tuple(listed)
        if key != "drop" and not members:
            raise ValueError(f"{key} is empty; list the classes that it joins")
        for name in members:
            if name not in names:
                known = close(name, names) or f"; the classes are: {', '.join(names)}"
                raise ValueError(f"{key}: there is no class '{name}'{known}")
            if name in owner:
                raise ValueError(f"class '{name}' is in {owner[name]} and in {key}; leave it in one of them")
            owner[name] = key
    for new in merge:
        if new in names and new not in owner:
            raise ValueError(f"merge.{new}: '{new}' is itself a class; add it to the list, or choose another name")
    joined: dict[str, tuple[str, ...]] = {}
    for name in names:
        key = owner.get(name, "")
        if not key:
            joined[name] = (name,)
        elif key != "drop":
            new = key.removeprefix("merge.")
            joined.setdefault(new, tuple(n for n in names if owner.get(n) == key))
    if not joined:
        raise ValueError("all classes are dropped; leave at least one")
    return joined
