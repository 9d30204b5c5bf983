"""Annotation rasters: the integers that a mask holds, unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from manyseg.data.files import DataError, opened, pages

__all__ = ["read_colors", "read_index", "value_counts"]


def read_index(path: Path, *, wide: bool) -> np.ndarray:
    """Read a raster of indices: grey or palette, UInt8[H, W], or UInt16[H, W] where `wide` allows 16 bits.

    A file of 32 bits gives Int32[H, W] where its values need them. A palette's colours mean nothing.
    Raises DataError for colours, and for 16 bits where 8 were promised.
    """
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
            if wide:
                plane = np.asarray(image)
                fits = plane.dtype.itemsize == 2 or (plane.min() >= 0 and plane.max() < 1 << 16)
                return plane.astype(np.uint16 if fits else np.int32)
            fix = "give the 8-bit label file, or list 65535 under `ignore` if 16 bits are meant"
            raise DataError(path, "16-bit mask where 8-bit indices were promised", fix)
        fix = "save it as a PNG of 8 bits, grey or palette"
        if image.mode in ("RGB", "RGBA"):
            fix = 'give the index PNG, or use encoding = "color" and write the colours as values'
        raise DataError(path, f"{image.mode} mask where an index was promised", fix)


def read_colors(path: Path) -> np.ndarray:
    """Read a raster of colours as Int32[H, W]: r * 65536 + g * 256 + b; alpha is dropped."""
    with opened(path) as image:
        _check_kind(path, image)
        if image.mode not in ("RGB", "RGBA", "P"):
            fix = "save it as an RGB PNG"
            if image.mode in ("L", "1") or image.mode.startswith("I"):
                fix = 'give the RGB PNG, or use encoding = "index" and write the numbers as values'
            raise DataError(path, f"{image.mode} mask where colours were promised", fix)
        rgb = np.asarray(image if image.mode == "RGB" else image.convert("RGB")).astype(np.int32)
    return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def _check_kind(path: Path, image: Image.Image) -> None:
    if image.format in ("JPEG", "MPO"):
        what = "the mask is a JPEG, whose compression changes values along every edge"
        raise DataError(path, what, "export the masks again as PNG; a converted JPEG keeps its wrong values")
    if (count := pages(image)) > 1:
        what = f"the mask has {count} pages, of which one alone can be read"
        raise DataError(path, what, "save the page with the classes as a PNG of its own")


def value_counts(plane: np.ndarray) -> np.ndarray:
    """Count the pixels of each value of a plane [H, W] of whole numbers: Int64[N], from value 0 on."""
    if plane.dtype == np.uint8:  # A quarter of the time of bincount, which widens to 64 bits.
        return np.array(Image.fromarray(plane).histogram())
    return np.bincount(plane.ravel())
