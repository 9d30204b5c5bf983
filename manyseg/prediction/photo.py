"""Photos and other pictures as they are shown to a model: three channels of 8 bits, the right way up.

Axes: h w the size that is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from manyseg.data.bands import ValueRange, band_facts, opened_windows
from manyseg.data.batch import image_tensor
from manyseg.data.files import DataError, image_size, opened
from manyseg.data.photo import read_rgb
from manyseg.data.window import Window
from manyseg.errors import UserError
from manyseg.inference.options import Size
from manyseg.inference.resize import resize

__all__ = ["PLAIN", "Picture", "Reading", "check_depth", "photo_size", "picture_pixels", "read_photo", "shown_photo"]

ORIENTATION = 0x0112
"""The EXIF tag of the orientation."""

PAGE = 254
"""The TIFF tag that says what a page is: bit 0 a smaller copy, bit 2 a mask."""

DARK = 1 << 13
"""Values of 16 bits below this are those of 12 or 13 bits: seen in the full range they are nearly black."""


Picture: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor
"""A file, a Pillow image, a uint8 array [H, W, 3] or [H, W], or a uint8 tensor [3, H, W]."""


class Reading(NamedTuple):
    """How pixels become red, green and blue, as in a card: which bands, and the values of black and white."""

    bands: tuple[int, ...] | None = None
    value_range: ValueRange | None = None


LEAVE_OUT = "leave it out"
"""What can be done with an image that is not to be read."""

PLAIN = Reading()
"""Pictures as they are; 16 bits in their full range."""


def read_photo(
    path: Path, target: Callable[[Size], Size], reading: Reading = PLAIN
) -> tuple[UInt8[Tensor, "3 h w"], Size]:
    """Read an image the right way up, at the size `target(native)`; return it with its native (height, width).

    Raises DataError if it cannot be read, has several pages, or has 16 bits of which it uses few and no range is given.
    """
    if reading.bands is not None:
        with opened_windows(path, reading.bands, reading.value_range) as picture:
            size = target(picture.size)
            return resize(torch.from_numpy(picture.reduced(Window.whole(picture.size), size)), size), picture.size
    with _opened(path) as file:
        _check_pages(path, file)
        deep = file.mode.startswith("I") or any(";16" in str(part[3]) for part in getattr(file, "tile", ()))
        try:
            shown = shown_photo(file, target, reading.value_range)
        except ValueError:
            if file.mode == "F" or reading.value_range is not None:
                fix = "give --bands 1,2,3 too" if file.mode != "F" else "give --range BLACK,WHITE"
                raise DataError(path, f"{file.mode} pixels do not fit the range asked for", fix) from None
            raise
        if deep and reading.value_range is None:
            # Of colours Pillow keeps the upper 8 bits alone.
            most, grey = int(np.asarray(file).max()), file.mode.startswith("I")
            check_depth(path, most if grey else 256 * most, "" if grey else "1,2,3")
        return shown


def shown_photo(
    file: Image.Image, target: Callable[[Size], Size], value_range: ValueRange | None = None
) -> tuple[UInt8[Tensor, "3 h w"], Size]:
    """Decode an opened image as `read_photo` does; raises what Pillow does if it is broken."""
    orientation = file.getexif().get(ORIENTATION, 1)
    height, width = image_size(file)
    native = (width, height) if orientation in (5, 6, 7, 8) else (height, width)
    size = target(native)
    pixels = read_rgb(file, size, orientation in range(2, 9), value_range)
    return resize(image_tensor(pixels), size), native


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture; of a TIFF that Pillow does not know, the error says how it can be read."""
    try:
        with opened(path, LEAVE_OUT) as file:
            yield file
    except DataError as e:
        if path.suffix.lower() not in (".tif", ".tiff") or "no known image format" not in e.what:
            raise
        facts = band_facts(path)
        fix = "say which are red, green and blue, and which values are black and white: --bands 3,2,1 --range 0,4095"
        raise DataError(path, f"{facts.bands} bands of {facts.kind}", fix) from None


def photo_size(path: Path) -> Size:
    """Return the (height, width) of an image the right way up, from its header; raises DataError without one."""
    with opened(path) as file:
        height, width = image_size(file)
        return (width, height) if file.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8) else (height, width)


def check_depth(path: Path, most: int, bands: str) -> None:
    """Raise DataError where the largest value of 16-bit pixels says that they have fewer bits; `bands` is advised."""
    if 0 < most < DARK:
        top = (1 << max(8, most.bit_length())) - 1
        how = f"--bands {bands} --range" if bands else "--range"
        fix = f"say which values are black and white: {how} 0,{top} ({how} 0,65535 leaves them as they are)"
        raise DataError(path, f"16 bits, but no value above {top}: it would be seen nearly black", fix)


def _check_pages(path: Path, file: Image.Image) -> None:
    """Raise DataError for a file of several pages; smaller copies and masks of a page are none."""
    count = getattr(file, "n_frames", 1) if file.format in ("TIFF", "PNG", "WEBP", "GIF") else 1
    if count > 1 and file.format == "TIFF":
        kinds = []
        for page in range(count):
            file.seek(page)
            kinds.append(int(file.tag_v2.get(PAGE, 0)))  # type: ignore[attr-defined]  # a TIFF has it
        file.seek(0)
        count = sum(not kind & 5 for kind in kinds)
    if count > 1:
        fix = "save each as an image of its own (magick scan.tif page-%03d.png)"
        raise DataError(path, f"{count} pages in one file, of which only one would be segmented", fix)


def picture_pixels(image: object) -> UInt8[Tensor, "3 H W"]:
    """Return an image in memory as a uint8 tensor; raises UserError for anything else, with what is accepted."""
    if isinstance(image, Image.Image):
        image = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if isinstance(image, Tensor):
        if image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3:
            return image
        raise UserError(f"the image is a tensor {image.dtype} {list(image.shape)}; give uint8 [3, H, W]")
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
            return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        raise UserError(f"the image is an array {image.dtype} {list(image.shape)}; give uint8 [H, W, 3] or [H, W]")
    raise UserError(
        f"the image is a {type(image).__name__}; give a path, a Pillow image, a uint8 array [H, W, 3] or a uint8 "
        "tensor [3, H, W]"
    )
