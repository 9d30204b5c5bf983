"""Pictures: any mode that Pillow reads becomes 8-bit RGB."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from manyseg.data.bands import ValueRange, to_bytes
from manyseg.data.files import BROKEN, DataError, image_size
from manyseg.data.window import Size, Window

if TYPE_CHECKING:
    from jaxtyping import UInt8

__all__ = ["Exif", "orientation", "read_rgb", "shown_size", "turned"]

Exif: TypeAlias = Literal["applied", "ignored"]
"""Whether annotations were made on images turned as their EXIF orientation says, or on the pixels as stored."""


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a JPEG: 1 (none) to 8; above 4 height and width are exchanged."""
    if image.format not in ("JPEG", "MPO"):
        return 1
    try:
        found = image.getexif().get(0x0112, 1)
    except BROKEN:
        return 1
    return found if found in range(1, 9) else 1


def turned(path: Path, image: Image.Image, exif: Exif | None, annotated: Size | None, sized: bool) -> bool:
    """Say whether the EXIF orientation is to be applied: as the card says, else as the annotation's size tells.

    `annotated` is None where nothing depends on it, and says nothing of its own unless `sized`. Raises DataError where
    the size does not tell: for half turns, mirrored and square images, and where there is none.
    """
    number, size = orientation(image), image_size(image)
    if number == 1 or exif is not None or annotated is None:
        return number > 1 and exif == "applied"
    if number > 4 and size[0] != size[1] and sized:
        return annotated == size[::-1]
    what = "the EXIF orientation turns the image, and nothing tells whether its annotation was made before or after"
    fix = 'look at the image, and write exif = "applied" or exif = "ignored" in the card'
    raise DataError(path, what, fix, place=f"orientation {number}")


def shown_size(image: Image.Image, turn: bool) -> Size:
    """Return (height, width), of the image as its EXIF orientation shows it if `turn`."""
    size = image_size(image)
    return size[::-1] if turn and orientation(image) > 4 else size


def read_rgb(
    image: Image.Image,
    least: Size | None = None,
    turn: bool = False,
    value_range: ValueRange | None = None,
    part: Callable[[Size], Window] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an opened picture as RGB; `turn` applies its EXIF orientation.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its scale where that is not smaller than `least` (height, width). `part`
    chooses, by the size (height, width) that it then has, the window that is returned.
    Alpha is dropped. Grey images of 16 bits have black and white at `value_range`, or use the full range.
    """
    if least is not None:
        height, width = least[::-1] if turn and orientation(image) > 4 else least
        image.draft(None, (max(width, 1), max(height, 1)))
    if turn:
        image = ImageOps.exif_transpose(image)
    if part is not None:
        # Within Pillow: what is not asked for is copied neither out of its memory nor into an array's.
        image = image.crop(part(image_size(image)).box)
    if image.mode.startswith("I"):
        image = Image.fromarray(to_bytes(np.asarray(image), value_range or (0, 65535)))
    elif image.mode == "F":
        image = Image.fromarray(to_bytes(np.asarray(image), value_range))
    elif value_range is not None:
        raise ValueError("the card gives `range`, but 8 bits a colour were read; remove it, or give `bands` as well")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
