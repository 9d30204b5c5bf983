"""Annotation rasters: the integers that a mask holds, unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from manyseg.data.bands import band_size, opened_raster, page_count
from manyseg.data.files import DataError, image_size, opened, pages
from manyseg.data.window import Size, Window

__all__ = ["raster_size", "read_colors", "read_index", "value_counts"]


def read_index(path: Path, *, wide: bool, window: Window | None = None) -> np.ndarray:
    """Read a raster of indices: grey or palette, UInt8[H, W], or UInt16[H, W] where `wide` allows 16 bits.

    A file of 32 bits gives Int32[H, W] where its values need them. A palette's colours mean nothing. Of a file in any
    format that GDAL knows a `window` can be read alone. Raises DataError for colours, and for 16 bits where 8 were
    promised.
    """
    if window is not None:
        return _checked_index(path, _read_window(path, window, "index"), wide)
    with opened(path) as image:
        _check_kind(path, image)
        # Pillow spreads grey PNGs of 2 and 4 bits over 0..255.
        stored = getattr(image, "tile", None) if image.format == "PNG" else None
        spread = {"L;2": 85, "L;4": 17}.get(str(stored[0][3]), 1) if stored else 1
        image.load()
        if image.mode in ("L", "P"):
            return np.asarray(image) // spread if spread > 1 else np.asarray(image)
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8)
        if image.mode.startswith("I"):
            return _checked_index(path, np.asarray(image), wide)
        raise _no_index(path, image.mode)


def _checked_index(path: Path, plane: np.ndarray, wide: bool) -> np.ndarray:
    """Return indices in as many bits as they need; raises DataError for more than 8 unless `wide`."""
    if plane.dtype == np.uint8:
        return plane
    if not wide:
        fix = "give the 8-bit label file, or list 65535 under `ignore` if 16 bits are meant"
        raise DataError(path, "16-bit mask where 8-bit indices were promised", fix)
    fits = plane.dtype.itemsize == 2 or (plane.min() >= 0 and plane.max() < 1 << 16)
    narrow: np.ndarray = plane.astype(np.uint16 if fits else np.int32)
    return narrow


def _no_index(path: Path, mode: str) -> DataError:
    fix = "save it as a PNG of 8 bits, grey or palette"
    if mode in ("RGB", "RGBA"):
        fix = 'give the index PNG, or use encoding = "color" and write the colours as values'
    return DataError(path, f"{mode} mask where an index was promised", fix)


def raster_size(path: Path, *, banded: bool) -> Size:
    """Return the (height, width) of a raster from its header; `banded` if it may be in any format that GDAL knows."""
    if banded:
        return band_size(path)
    with opened(path) as image:
        return image_size(image)


def read_colors(path: Path, window: Window | None = None) -> np.ndarray:
    """Read a raster of colours, or a window of one, as Int32[H, W]: r * 65536 + g * 256 + b; alpha is dropped."""
    if window is not None:
        return _packed(_read_window(path, window, "color").transpose(1, 2, 0))
    with opened(path) as image:
        _check_kind(path, image)
        if image.mode not in ("RGB", "RGBA", "P"):
            raise _no_colors(path, image.mode)
        return _packed(np.asarray(image if image.mode == "RGB" else image.convert("RGB")))


def _no_colors(path: Path, mode: str) -> DataError:
    fix = "save it as an RGB PNG"
    if mode in ("L", "1") or mode.startswith("I"):
        fix = 'give the RGB PNG, or use encoding = "index" and write the numbers as values'
    return DataError(path, f"{mode} mask where colours were promised", fix)


def _packed(rgb: np.ndarray) -> np.ndarray:
    rgb = rgb.astype(np.int32)
    packed: np.ndarray = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
    return packed


def _read_window(path: Path, window: Window, kind: Literal["index", "color"]) -> np.ndarray:
    """Read a window of a mask in any format that GDAL knows: whole numbers [h, w], or 8 bits [3, h, w] for colours."""
    with opened_raster(path) as file:
        _check_format(path, file.driver, page_count(file))
        place = window.within((file.height, file.width)).ranges
        whole = np.dtype(file.dtypes[0]).kind in "iu"
        mode = {3: "RGB", 4: "RGBA"}.get(file.count, "L" if file.count == 1 and whole else f"{file.count}-band")
        if kind == "index":
            if mode != "L":
                raise _no_index(path, mode)
            plane: np.ndarray = file.read(1, window=place)
            return plane
        if file.count == 1 and file.colorinterp[0].name == "palette":
            table = np.zeros((256, 3), np.uint8)
            for index, color in file.colormap(1).items():
                table[index] = color[:3]
            colors: np.ndarray = table[file.read(1, window=place)].transpose(2, 0, 1)
            return colors
        if file.count not in (3, 4) or file.dtypes[0] != "uint8":
            raise _no_colors(path, mode if file.dtypes[0] == "uint8" else f"{file.dtypes[0]}")
        rgb: np.ndarray = file.read([1, 2, 3], window=place)
        return rgb


def _check_kind(path: Path, image: Image.Image) -> None:
    _check_format(path, image.format or "", pages(image))


def _check_format(path: Path, kind: str, count: int) -> None:
    if kind in ("JPEG", "MPO"):
        what = "the mask is a JPEG, whose compression changes values along every edge"
        raise DataError(path, what, "export the masks again as PNG; a converted JPEG keeps its wrong values")
    if count > 1:
        what = f"the mask has {count} pages, of which one alone can be read"
        raise DataError(path, what, "save the page with the classes as a PNG of its own")


def value_counts(plane: np.ndarray) -> np.ndarray:
    """Count the pixels of each value of a plane [H, W] of whole numbers: Int64[N], from value 0 on."""
    if plane.dtype == np.uint8:  # A quarter of the time of bincount, which widens to 64 bits.
        return np.array(Image.fromarray(plane).histogram())
    return np.bincount(plane.ravel())
