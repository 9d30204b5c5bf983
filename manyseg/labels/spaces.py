"""Label spaces: ordered lists of named classes.

Only numpy is needed here, so that labels can be inspected without loading a deep-learning framework.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from manyseg.errors import UserError
from manyseg.labels.colors import Color, assign_colors, hex_color

__all__ = ["IGNORE", "SEPARATOR", "ClassKey", "LabelClass", "LabelSpace"]

IGNORE = -1
"""The value of a pixel without supervision, in every label tensor of the package."""

SEPARATOR = "|"
"""Joins several classes of one dataset in one cell of a taxonomy table."""

UNSPELLABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line separators, and halves of characters: text files do not give them back."""

ClassKey = tuple[str, str]
"""(dataset, class): one class of one dataset, by their names."""


@dataclass(frozen=True)
class LabelClass:
    """One class of a label space.

    `color` is (r, g, b) in 0..255; with None the name decides (`LabelSpace.colors`, `Taxonomy.painted`). Classes that
    differ in colour alone are equal.
    `thing` is true for countable objects. `synonyms` are other names of exactly the same class.
    """

    name: str
    color: Color | None = field(default=None, compare=False)
    thing: bool = False
    description: str = ""
    synonyms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name("class", self.name, SEPARATOR, 1000)
        if self.color is not None and not all(0 <= v <= 255 for v in self.color):
            raise UserError(f"the colour of class '{self.name}' is {list(self.color)}; give red, green, blue in 0..255")


def _check_name(what: str, name: str, forbidden: str, longest: int) -> None:
    """Raise UserError for a name that does not survive the files that it is written to."""
    if not name.strip():
        raise UserError(f"a {what} has an empty name; give every {what} a name")
    fault = ""
    if found := UNSPELLABLE.search(name) or re.search(f"[{re.escape(forbidden)}]", name):
        fault = f"contains {found[0]!r}"
    elif name != name.strip():
        fault = "begins or ends with a space"
    elif len(name.encode()) > 2 * longest or len(name) > longest:
        fault = f"is too long ({len(name)} characters); {longest} are enough"
    if fault:
        shown = repr(name if len(name) <= 60 else f"{name[:57]}...")
        raise UserError(f"{what} name {shown} {fault}; rename the {what}")


@dataclass(frozen=True)
class LabelSpace:
    """An ordered list of classes with a name; a mask stores positions in it, or `IGNORE`."""

    name: str
    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        _check_name("dataset", self.name, "/\\", 100)  # Names of files begin with it.
        if not self.classes:
            raise UserError(f"label space '{self.name}' has no class; it needs at least one")
        seen: set[str] = set()
        for name in self.names:
            if name in seen:
                raise UserError(f"label space '{self.name}' names class '{name}' twice; rename or remove one of them")
            seen.add(name)

    @classmethod
    def of(cls, name: str, names: Iterable[str]) -> LabelSpace:
        """Build a space from class names alone."""
        return cls(name, tuple(LabelClass(n) for n in names))

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Class names in order."""
        return tuple(c.name for c in self.classes)

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Position of each class name."""
        return {n: i for i, n in enumerate(self.names)}

    def difference(self, other: LabelSpace) -> str:
        """Say what the first class that differs from that of another space is here and there; "" if none does."""
        if len(self) != len(other):
            return f"it has {len(self)} classes, not {len(other)}"
        for i, (mine, theirs) in enumerate(zip(self.classes, other.classes, strict=True)):
            if mine.name != theirs.name:
                return f"its class {i} is '{mine.name}', not '{theirs.name}'"
            if mine.thing != theirs.thing:
                return f"'{mine.name}' is {'a thing, not stuff' if mine.thing else 'stuff, not a thing'}"
            if mine != theirs:
                what = "other synonyms" if mine.description == theirs.description else "another description"
                return f"'{mine.name}' has {what}"
        return ""

    @cached_property
    def colors(self) -> np.ndarray:
        """UInt8[D, 3] colours: the given ones, else those of the names; see `colors.assign_colors`."""
        return assign_colors(self.names, [c.color for c in self.classes])

    @cached_property
    def hex_colors(self) -> tuple[str, ...]:
        """The colours as `#rrggbb`."""
        return tuple(map(hex_color, self.colors.tolist()))
