"""Sizes of images, and windows: parts of images, in pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["EVERYTHING", "Size", "Window", "size_text"]

Size = tuple[int, int]
"""(height, width) in pixels."""

STRIP = 1 << 24
"""Pixels that are held at once of an image that is read by windows from top to bottom."""


class Window(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def whole(cls, size: Size) -> Window:
        """Return the window of an image of (height, width) `size` that is all of it."""
        return cls(0, 0, *size)

    @classmethod
    def strips(cls, size: Size) -> Iterator[Window]:
        """Cut an image of (height, width) `size` into windows of its whole width, from top to bottom."""
        rows = max(1, STRIP // size[1])
        for top in range(0, size[0], rows):
            yield cls(top, 0, min(rows, size[0] - top), size[1])

    @property
    def ranges(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Its rows and its columns, each from the first one to the end."""
        return (self.top, self.top + self.height), (self.left, self.left + self.width)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Its left, upper, right and lower edge, as Pillow takes them."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    def within(self, size: Size) -> Window:
        """Return the part of the window that lies in an image of (height, width) `size`."""
        return Window(self.top, self.left, min(self.height, size[0] - self.top), min(self.width, size[1] - self.left))


EVERYTHING = Window(0, 0, 1 << 31, 1 << 31)
"""A window that no image is larger than."""


def size_text(size: tuple[int, ...]) -> str:
    """Write (height, width) as people do: width x height."""
    return f"{size[1]}x{size[0]}"
