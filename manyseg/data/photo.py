"""Pictures: any mode that Pillow reads becomes 8-bit RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from manyseg.data.bands import Levels, to_bytes
from manyseg.data.files import Size, image_size

if TYPE_CHECKING:
    from jaxtyping import UInt8

__all__ = ["read_rgb", "turned"]


def turned(image: Image.Image, annotated: Size | None) -> bool:
    """Say whether the EXIF orientation is to be applied.

    Decision: it is not, for annotation tools draw on the stored pixels; only where the annotation has the turned size
    and not the stored one must its author have seen the turned image. A half turn leaves no such trace.
    """
    size = image_size(image)
    if annotated is None or annotated == size or annotated != size[::-1] or image.format not in ("JPEG", "MPO"):
        return False
    return bool(image.getexif().get(0x0112, 1) >= 5)


def read_rgb(
    image: Image.Image, least: Size | None = None, turn: bool = False, levels: Levels | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an opened picture as RGB; `turn` applies its EXIF orientation.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its scale where that is not smaller than `least` (height, width).
    Alpha is dropped. Grey images of 16 bits have black and white at `levels`, or use the full range.
    """
    if least is not None:
        height, width = least[::-1] if turn else least
        image.draft(None, (max(width, 1), max(height, 1)))
    if turn:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray(to_bytes(np.asarray(image), levels or (0, 65535)))
    elif image.mode == "F":
        image = Image.fromarray(to_bytes(np.asarray(image), levels))
    elif levels is not None:
        raise ValueError("the card gives `range`, but 8 bits a colour were read; remove it, or give `bands` as well")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
