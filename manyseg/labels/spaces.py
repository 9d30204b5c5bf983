"""Label spaces: ordered lists of named classes.

Only numpy is needed here, so that labels can be inspected without loading a deep-learning framework.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from manyseg.errors import UserError

__all__ = ["IGNORE", "SEPARATOR", "ClassKey", "LabelClass", "LabelSpace"]

IGNORE = -1
"""The value of a pixel without supervision, in every label tensor of the package."""

SEPARATOR = "|"
"""Joins several classes of one dataset in one cell of a taxonomy table."""

ClassKey = tuple[str, str]
"""(dataset, class): one class of one dataset, by their names."""


@dataclass(frozen=True)
class LabelClass:
    """One class of a label space.

    `color` is (r, g, b) in 0..255; None takes a stable colour from the name's position.
    `thing` is true for countable objects. `synonyms` are other names of exactly the same class.
    """

    name: str
    color: tuple[int, int, int] | None = None
    thing: bool = False
    description: str = ""
    synonyms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UserError("a class has an empty name; give every class a name")
        if any(c in self.name for c in "\t\n\r" + SEPARATOR):
            raise UserError(f"class name {self.name!r} contains a tab, a line break or '{SEPARATOR}'; rename the class")


@dataclass(frozen=True)
class LabelSpace:
    """An ordered list of classes with a name; a mask stores positions in it, or `IGNORE`."""

    name: str
    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UserError("a label space has an empty name; give it one")
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

    @cached_property
    def colors(self) -> np.ndarray:
        """UInt8[D, 3] colours: the given ones, else well-spread hues by position."""
        out = np.empty((len(self), 3), np.uint8)
        for i, c in enumerate(self.classes):
            if c.color is not None:
                out[i] = c.color
                continue
            # Golden-ratio hues stay apart for any number of classes; two brightness rings separate neighbours.
            rgb = colorsys.hsv_to_rgb((i * 0.61803398875) % 1.0, 0.55 + 0.35 * (i % 2), 0.95 - 0.3 * (i // 2 % 2))
            out[i] = [round(255 * v) for v in rgb]
        return out
