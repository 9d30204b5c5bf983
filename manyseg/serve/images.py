"""Images that strangers send: only known formats, and their size is known before anything is decoded."""

from __future__ import annotations

import io
from collections.abc import Callable

from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from manyseg.data.files import BROKEN
from manyseg.data.window import size_text
from manyseg.inference.options import Size
from manyseg.prediction.photo import shown_photo

__all__ = ["FORMATS", "RequestError", "decode"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""The formats that are decoded, in Pillow's names."""


class RequestError(Exception):
    """A request cannot be served: its HTTP `status`, and what to do in one line; `retry` are seconds to wait."""

    def __init__(self, status: int, message: str, retry: float | None = None) -> None:
        super().__init__(message)
        self.status, self.retry = status, retry


def decode(content: bytes, most_pixels: int, target: Callable[[Size], Size]) -> tuple[UInt8[Tensor, "3 h w"], Size]:
    """Decode an image the right way up, at the size `target(native)`; return it with its native (height, width).

    Raises RequestError where it is no image of `FORMATS`, is broken, or has more than `most_pixels`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as file:
            width, height = file.size
            if width * height > most_pixels:
                raise RequestError(413, _too_large((height, width), most_pixels))
            return shown_photo(file, target)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RequestError(413, _too_large(None, most_pixels)) from None
    except UnidentifiedImageError:
        raise RequestError(415, f"this is no image of a known format; send {', '.join(FORMATS)}") from None
    except BROKEN:
        raise RequestError(422, "the image is broken or ends too early; save or send it again") from None


def _too_large(size: Size | None, most: int) -> str:
    what = "the image" if size is None else f"the image of {size_text(size)}"
    return f"{what} has more than {most / 1e6:g} million pixels; make it smaller"
