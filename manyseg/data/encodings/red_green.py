"""Masks that hold class and object in one colour: the class in red and green, the object in blue."""

from __future__ import annotations

import numpy as np

from manyseg.data.encodings.base import UNKNOWN_VALUE, Encoding, ImageFiles, Regions
from manyseg.data.encodings.masks import count_values
from manyseg.data.files import DataError
from manyseg.data.raster import raster_size, read_colors
from manyseg.data.window import Size
from manyseg.labels import IGNORE

__all__ = ["RedGreen"]


class RedGreen(Encoding):
    """A colour a pixel: the class value is red // 10 * 256 + green, and blue tells the objects of an image apart.

    This is how the full annotation of ADE is spelled; its value 0 is a pixel without an object.
    """

    name = "ade_full"
    needs = frozenset({"mask"})
    kind = "segments"
    limit = 26 * 256

    def size(self, files: ImageFiles) -> Size | None:
        """Return the mask's size."""
        assert files.mask is not None
        return raster_size(files.mask, banded=files.banded)

    def read(self, files: ImageFiles) -> Regions:
        """Read the mask; a region is a pair of class and blue."""
        assert files.mask is not None
        color = read_colors(files.mask, files.window)
        value = (color >> 16) // 10 * 256 + (color >> 8 & 255)
        pairs, plane = np.unique(value * 256 + (color & 255), return_inverse=True)
        classes = np.array([self.raw.positions.get(int(v), -2) for v in pairs // 256], np.int64)
        unknown = classes[plane] < IGNORE
        if unknown.any():
            plane_values = value.ravel()[unknown.ravel()]
            raise DataError(files.mask, "not in the card", UNKNOWN_VALUE, count_values(plane_values))
        known = ~self.raw.identified[classes] | (pairs % 256 != 0) | (classes == IGNORE)
        return Regions(plane.reshape(color.shape), classes, known)
