"""Image files: pictures as RGB, annotation rasters as the integers they hold, and errors that name the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from manyseg import atomic
from manyseg.errors import UserError

__all__ = ["DataError", "image_size", "opened", "read_colors", "read_index", "read_rgb", "turned", "write_image"]

# What Pillow raises for files that are broken in one way or another.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

Size = tuple[int, int]
"""(height, width) in pixels."""


class DataError(UserError):
    """A file of a dataset is at fault.

    `what` says how, without naming the file; `values` are the raw values at fault with their pixel counts, most
    frequent first; `fix` says what to do.
    """

    def __init__(self, file: str | Path, what: str, fix: str, values: tuple[tuple[Any, int], ...] = ()) -> None:
        self.file, self.what, self.fix, self.values = str(file), what, fix, values
        detail = ""
        if values:
            more = f" and {len(values) - 1} more values" if len(values) > 1 else ""
            detail = f": value {values[0][0]} on {values[0][1]} pixels{more}"
        super().__init__(f"{file}: {what}{detail}; {fix}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, self.what, self.fix, self.values)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file; raises DataError if it is missing, or found broken before the block ends."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise DataError(path, "there is no such file", "add it, or remove its id from the split") from None
    except BROKEN as e:
        raise DataError(path, f"unreadable or truncated image ({_reason(e)})", "fetch the file again") from None


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    return " ".join(str(error).split()) or type(error).__name__


def image_size(image: Image.Image) -> Size:
    """Return (height, width)."""
    return image.size[1], image.size[0]


def turned(image: Image.Image, annotated: Size | None) -> bool:
    """Say whether the EXIF orientation is to be applied.

    Decision: it is not, for annotation tools draw on the stored pixels; only where the annotation has the turned size
    and not the stored one must its author have seen the turned image. A half turn leaves no such trace.
    """
    size = image_size(image)
    if annotated is None or annotated == size or annotated != size[::-1] or image.format not in ("JPEG", "MPO"):
        return False
    return bool(image.getexif().get(0x0112, 1) >= 5)


def read_rgb(image: Image.Image, least: Size | None = None, turn: bool = False) -> UInt8[Tensor, "3 h w"]:
    """Decode an opened picture as RGB; `turn` applies its EXIF orientation.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its scale where that is not smaller than `least` (height, width).
    Alpha is dropped. Grey images of 16 bits are taken to use the full range.
    """
    if least is not None:
        height, width = least[::-1] if turn else least
        image.draft(None, (max(width, 1), max(height, 1)))
    if turn:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        grey = (np.asarray(image).astype(np.float32) / 257).round().clip(0, 255).astype(np.uint8)
        image = Image.fromarray(grey)
    elif image.mode == "F":
        raise ValueError("floating-point pixels; save the image with 8 or 16 bits")
    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    # Left in the order of the file, colour last: a crop is cheaper to copy than the image.
    return torch.from_numpy(pixels).permute(2, 0, 1)


def write_image(path: Path, image: Image.Image, **options: Any) -> None:
    """Write a picture in the format that the path's suffix names; `options` are Pillow's for that format."""
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(f"{path}: '{path.suffix}' is no picture format; use .png or .jpg")
    # Encoded in memory: from a file Pillow's encoders report a full disk as "encoder error -2".
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    atomic.write(path, buffer.getvalue())


def read_index(path: Path, *, wide: bool) -> np.ndarray:
    """Read a raster of indices: grey or palette, UInt8[H, W], or UInt16[H, W] where `wide` allows 16 bits.

    A palette's colours mean nothing. Raises DataError for colours, and for 16 bits where 8 were promised.
    """
    with opened(path) as image:
        image.load()
        if image.mode in ("L", "P"):
            # Pillow spreads grey PNGs of 2 and 4 bits over 0..255.
            return np.asarray(image) // _spread(path) if image.mode == "L" else np.asarray(image)
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8)
        if image.mode.startswith("I"):
            if wide:
                return np.asarray(image).astype(np.uint16)
            fix = "give the 8-bit label file, or list 65535 under `ignore` if 16 bits are meant"
            raise DataError(path, "16-bit mask where 8-bit indices were promised", fix)
        fix = 'give the index PNG, or use encoding = "color"'
        raise DataError(path, f"{image.mode} mask where an index was promised", fix)


def _spread(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(25)
    bits = head[24] if head.startswith(b"\x89PNG") and len(head) == 25 else 8
    return {2: 85, 4: 17}.get(bits, 1)


def read_colors(path: Path) -> np.ndarray:
    """Read a raster of colours as Int32[H, W]: r * 65536 + g * 256 + b; alpha is dropped."""
    with opened(path) as image:
        if image.mode not in ("RGB", "RGBA", "P"):
            raise DataError(path, f"{image.mode} mask where colours were promised", "give the RGB PNG")
        rgb = np.asarray(image if image.mode == "RGB" else image.convert("RGB")).astype(np.int32)
    return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
