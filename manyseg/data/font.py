"""The font of legends: it must be there on every machine, and draw the names of classes in any script if it can."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from PIL import ImageFont

__all__ = ["legend_font"]

SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSans-Regular.ttf",
    "arial.ttf",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "msyh.ttc",
    "malgun.ttf",
    "PingFang.ttc",
)
"""Fonts of wide coverage under the file names that Linux, Windows and macOS know them by; Pillow finds the folder."""

NO_CHARACTER = "\U0010fffe"
"""No font has it, so that it shows the sign which a font draws for all characters that it lacks."""


def legend_font(size: int, texts: Iterable[str]) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font of `size` pixels for `texts`.

    It is Pillow's own, the same everywhere, if that has all characters (it has the ASCII ones); else the system font of
    `SYSTEM_FONTS` that lacks the fewest. What that lacks too is drawn as an empty box.
    """
    characters = frozenset("".join(texts))
    own = ImageFont.load_default(size)
    if all(c.isascii() for c in characters):
        return own
    return min((own, *_system_fonts(size)), key=lambda font: sum(_lacks(font, c) for c in characters))


@lru_cache
def _system_fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    found = []
    for name in SYSTEM_FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue  # It is not on this machine.
    return tuple(found)


def _lacks(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, character: str) -> bool:
    return bytes(font.getmask(character)) == bytes(font.getmask(NO_CHARACTER))
