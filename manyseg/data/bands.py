"""Pictures of any number of bands and bits, such as satellites take: three bands are shown as red, green and blue."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np

from manyseg.data.files import DataError, check_ends, exists
from manyseg.data.packed import Pack, pack_of
from manyseg.data.window import Size, Window
from manyseg.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Shaped, UInt8

__all__ = [
    "LARGE",
    "BandFacts",
    "BandWindows",
    "ValueRange",
    "band_facts",
    "band_size",
    "opened_raster",
    "opened_windows",
    "page_count",
    "to_bytes",
]

ValueRange: TypeAlias = tuple[float, float]
"""The values that become black and white."""

LARGE = 1 << 26
"""Pixels from which on an image is only seen by windows."""

SEEN = 1024
"""Side of the smaller picture, at most, by which the values of an image are judged."""


def to_bytes(pixels: Shaped[np.ndarray, "*any"], value_range: ValueRange | None) -> UInt8[np.ndarray, "*any"]:
    """Map the `value_range`, by default all that the type of whole numbers holds, to 0 .. 255; NaN becomes black.

    Raises ValueError for floating-point values without a range.
    """
    if value_range is None:
        if pixels.dtype.kind not in "iu":
            raise ValueError("floating-point pixels; give `range = [black, white]` in the card")
        if pixels.dtype == np.uint8:
            return pixels
        value_range = 0, float(np.iinfo(pixels.dtype).max)
    low, high = value_range
    scaled = (pixels.astype(np.float32) - low) * (255 / (high - low))
    out: np.ndarray = np.nan_to_num(scaled).round().clip(0, 255).astype(np.uint8)
    return out


class BandWindows:
    """An open picture of which windows are read: three bands as red, green and blue of 8 bits, or one as grey.

    `white` is the largest value of 16 bits, where no range was given. Georeferencing is that of the file.
    """

    def __init__(self, file: Any, bands: Sequence[int] | None, value_range: ValueRange | None) -> None:
        self.file, self.value_range = file, value_range
        self.bands = list(bands or (range(1, 4) if file.count in (3, 4) else range(1, file.count + 1)))
        deep = value_range is None and str(file.dtypes[0]) in ("uint16", "int16")
        self.white = int(np.iinfo(file.dtypes[0]).max) if deep else None
        self.size: Size = (int(file.height), int(file.width))

    @property
    def georeference(self) -> dict[str, Any]:
        """The coordinate system and transform of the file, as rasterio takes them."""
        return {"crs": self.file.crs, "transform": self.file.transform}

    def read(self, top: int, left: int, height: int, width: int) -> UInt8[np.ndarray, "3 _ _"]:
        """Read a window at its own size."""
        return self._rgb(self._read(window=Window(top, left, height, width).ranges))

    def reduced(self, window: Window, least: Size) -> UInt8[np.ndarray, "3 _ _"]:
        """Read a window at its own size, or where that is far more than `least` (height, width) at twice that size."""
        from rasterio.enums import Resampling

        shape = (min(window.height, 2 * least[0]), min(window.width, 2 * least[1]))
        if shape == (window.height, window.width):
            return self.read(*window)
        place = {"window": window.ranges, "resampling": Resampling.average}
        return self._rgb(self._read(out_shape=(len(self.bands), *shape), **place))

    def check_end(self) -> None:
        """Read the last pixel, which a file that was cut off lacks."""
        self.read(self.size[0] - 1, self.size[1] - 1, 1, 1)

    def preview(self, size: Size) -> UInt8[np.ndarray, "3 _ _"]:
        """Read the whole picture at a smaller (height, width)."""
        from rasterio.enums import Resampling

        shape = (len(self.bands), *size)
        return self._rgb(self._read(out_shape=shape, resampling=Resampling.average))

    def highest(self, window: Window) -> float:
        """Read the largest value of a window."""
        return float(self._read(window=window.ranges).max())

    def most(self, size: Size) -> int:
        """Return the largest value of a smaller picture of this (height, width)."""
        return int(self._read(out_shape=(len(self.bands), *size)).max())

    def _read(self, **how: Any) -> Shaped[np.ndarray, "_ _ _"]:
        from rasterio.errors import RasterioError

        try:
            found: np.ndarray = self.file.read(self.bands, **how)
        except RasterioError as e:
            raise _unreadable(Path(self.file.name), e) from None
        return found

    def _rgb(self, pixels: Shaped[np.ndarray, "_ _ _"]) -> UInt8[np.ndarray, "3 _ _"]:
        rgb = to_bytes(pixels, self.value_range)
        return rgb if len(rgb) == 3 else np.repeat(rgb, 3, axis=0)


@contextmanager
def opened_windows(path: Path, bands: Sequence[int] | None, value_range: ValueRange | None) -> Iterator[BandWindows]:
    """Open a picture to read windows of it; without `bands` one that has 1, 3 or 4 of them.

    What was read is held up to some 64 MB. Raises DataError if the file is missing or broken, or the bands are not
    there, here or while the block reads.
    """
    find_rasterio(path)
    import rasterio

    with opened_raster(path) as file, rasterio.Env(GDAL_CACHEMAX=64):
        if bands is None and file.count not in (1, 3, 4):
            raise DataError(path, f"{file.count} bands", "say which are red, green and blue: --bands 3,2,1")
        if bands is not None:
            _check_bands(path, file, bands)
        if value_range is None and np.dtype(file.dtypes[0]).kind not in "iu":
            fix = "give `range = [black, white]` in the card, or --range BLACK,WHITE to predict"
            raise DataError(path, "floating-point pixels", fix)
        yield BandWindows(file, bands, value_range)


def band_size(path: Path) -> Size:
    """Return the image's (height, width) from its header."""
    with opened_raster(path) as file:
        return int(file.height), int(file.width)


def page_count(file: Any) -> int:
    """Return how many pictures an open raster holds, of which the first is read."""
    return max(1, len(file.subdatasets))


class BandFacts(NamedTuple):
    """What a file says of its bands: how many, their type, which are red, green and blue if it says so.

    `low` and `high` enclose all but one in a thousand of the values, if those were read.
    """

    bands: int
    kind: str
    colors: tuple[int, ...] = ()
    low: float = 0
    high: float = 0


def band_facts(path: Path, *, values: bool = False) -> BandFacts:
    """Read what a file says of its bands, and with `values` their range."""
    with opened_raster(path) as file:
        names = [color.name for color in file.colorinterp]
        colors = tuple(names.index(c) + 1 for c in ("red", "green", "blue") if c in names)
        facts = BandFacts(file.count, str(file.dtypes[0]), colors if len(colors) == 3 else ())
        if not values:
            return facts
        smaller = (file.count, min(file.height, SEEN), min(file.width, SEEN))
        low, high = np.nanpercentile(file.read(out_shape=smaller).astype(np.float64), (0.1, 99.9))
        if np.issubdtype(np.dtype(facts.kind), np.integer):
            low, high = np.floor(low), np.ceil(high)
        return facts._replace(low=float(low), high=float(high))


def find_rasterio(path: Path) -> None:
    """Raise UserError where the package that reads bands is not installed."""
    try:
        import rasterio  # noqa: F401
    except ImportError:
        raise UserError(f"{path}: this image needs rasterio; pip install 'manyseg[bands]'") from None


@contextmanager
def opened_raster(path: Path) -> Iterator[Any]:
    """Open a file with rasterio; raises DataError if it is missing or broken, here or while the block reads."""
    find_rasterio(path)
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    # For good, as threads that open files at once would take back each other's filters.
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    if path.exists():
        check_ends(path)
    try:
        packed = pack_of(path)
        # Of a pack, on a disk or in a store, GDAL reads the parts that it needs.
        place, opener = (path, None) if packed is None else (packed.name, _opener(packed.pack))
        with rasterio.open(place, opener=opener) as file:
            yield file
    except FileNotFoundError:
        raise DataError(path, "there is no such file", "add it, or remove its id from the split") from None
    except RasterioError as e:
        if not exists(path):
            raise DataError(path, "there is no such file", "add it, or remove its id from the split") from None
        raise _unreadable(path, e) from None


def _opener(pack: Pack) -> Callable[..., BinaryIO]:
    """Return what rasterio opens files of a pack with; it also asks for files that may lie beside an image."""
    return lambda name, mode="rb": pack.open(name)


def _check_bands(path: Path, file: Any, bands: Sequence[int]) -> None:
    if max(bands) > file.count:
        what = f"`bands` names band {max(bands)}, but the image has {file.count}"
        raise DataError(path, what, "correct `bands`, or remove the image")


def _unreadable(path: Path, error: Exception) -> DataError:
    cause = error.__cause__ or error  # Which says no more than that there was one.
    return DataError(path, f"unreadable or truncated image ({' '.join(str(cause).split())})", "fetch it again")
