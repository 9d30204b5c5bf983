"""Images too large for memory: label maps as TIFF, read and written by windows, and small overlays.

Axes: D classes, H W the image's own size, h w that of the overlay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from manyseg import atomic
from manyseg.data import bands
from manyseg.data.bands import BandWindows, band_size, opened_windows
from manyseg.data.files import write_image
from manyseg.errors import UserError
from manyseg.inference.encoded_images import OutputSpace
from manyseg.inference.large_image import label_rows
from manyseg.inference.options import Size
from manyseg.labels import IGNORE, LabelSpace
from manyseg.prediction.drawing import PixelValues, overlay
from manyseg.prediction.model import Model
from manyseg.prediction.photo import Reading, check_depth

__all__ = ["Counts", "is_large", "large_target", "predict_large"]

SMALL = 1 << 23
"""Bytes of a file that no such image is kept in, even if it has one colour."""

OVERLAY_SIDE = 2048
"""The longer side of an overlay."""

TILE = 256
"""Side of the tiles of a written TIFF."""

SUFFIXES = {"masks": ".tif", "overlays": ".jpg"}
"""The kinds of files that are written, and how their names end."""


class Counts(NamedTuple):
    """The pixels of every class, and the seconds that it took."""

    pixels: Int[np.ndarray, " D"]
    seconds: float


def is_large(path: Path) -> bool:
    """Say whether a file is a TIFF of at least `bands.LARGE` pixels; raises DataError if it cannot be opened."""
    if path.suffix.lower() not in (".tif", ".tiff") or path.stat().st_size < min(SMALL, bands.LARGE // 8):
        return False
    height, width = band_size(path)
    return height * width >= bands.LARGE


def large_target(out: Path, kind: str, name: str) -> Path:
    """Return the file of a kind for an image; raises UserError for kinds that are not written of large images."""
    if kind not in SUFFIXES:
        raise UserError(f"{name}: '{kind}' is not written of images this large; choose from: {', '.join(SUFFIXES)}")
    return out / kind / f"{name}{SUFFIXES[kind]}"


def predict_large(
    model: Model,
    path: Path,
    output: OutputSpace,
    targets: Mapping[str, Path],
    values: Mapping[str, PixelValues],
    reading: Reading,
) -> Counts:
    """Segment an image by windows, and write its label map, and an overlay of at most `OVERLAY_SIDE` pixels.

    Raises DataError if it cannot be read, and UserError where the options need the whole image.
    """
    start = time.monotonic()
    counts, options = np.zeros(len(output.space), np.int64), model.options.of(output.space.name)
    with opened_windows(path, reading.bands, reading.value_range) as image:
        factor = min(1.0, OVERLAY_SIDE / max(image.size))
        small = (max(1, round(image.size[0] * factor)), max(1, round(image.size[1] * factor)))
        if image.white is not None:
            check_depth(path, image.most(small), ",".join(map(str, image.bands)) if len(image.bands) > 1 else "")
        preview = _Preview(image.size, small)

        def read(top: int, left: int, height: int, width: int) -> UInt8[Tensor, "3 _ _"]:
            return torch.from_numpy(image.read(top, left, height, width))

        with ExitStack() as stack:
            writers: list[Callable[[Int[np.ndarray, "R W"]], None]] = [preview.add]
            if "masks" in targets:
                writers.append(stack.enter_context(_written(targets["masks"], image, output.space, values["masks"])))
            for (rows,) in label_rows(model.method, read, image.size, [output], options):
                labels = rows.cpu().numpy()
                counts += np.bincount(labels[labels != IGNORE], minlength=len(counts))
                for write in writers:
                    write(labels)
        if "overlays" in targets:
            picture = torch.from_numpy(image.preview(small))
            drawn = overlay(picture, torch.from_numpy(preview.labels), output.space)
            write_image(targets["overlays"], drawn, quality=90)
    return Counts(counts, time.monotonic() - start)


class _Preview:
    """The label map at a smaller size: of each place the nearest pixel."""

    def __init__(self, size: Size, small: Size) -> None:
        self.rows, self.columns = (
            (2 * np.arange(n, dtype=np.int64) + 1) * whole // (2 * n) for n, whole in zip(small, size, strict=True)
        )
        self.labels = np.full(small, IGNORE, np.int64)
        self.seen = 0

    def add(self, rows: Int[np.ndarray, "R W"]) -> None:
        """Take the next rows of the label map."""
        inside = (self.rows >= self.seen) & (self.rows < self.seen + len(rows))
        self.labels[inside] = rows[self.rows[inside] - self.seen][:, self.columns]
        self.seen += len(rows)


@contextmanager
def _written(
    path: Path, image: BandWindows, space: LabelSpace, values: PixelValues
) -> Iterator[Callable[[Int[np.ndarray, "R W"]], None]]:
    """Yield a function that takes the rows of a label map, and writes them as a TIFF with the image's georeference.

    Tiles are compressed, and written once they are complete.
    """
    import rasterio

    # IGNORE is -1, the last one.
    lookup = np.array([*values.classes, values.ignored], values.dtype)
    held = np.zeros((0, image.size[1]), values.dtype)
    done = 0
    with (
        atomic.writing(path) as file,
        rasterio.open(
            file.name, "w", driver="GTiff", height=image.size[0], width=image.size[1], count=1, dtype=values.dtype,
            nodata=values.ignored, tiled=True, blockxsize=TILE, blockysize=TILE, compress="deflate",
            bigtiff="if_safer", **image.georeference,
        ) as target,
    ):  # fmt: skip
        target.write_colormap(1, dict(zip(values.classes, map(tuple, space.colors.tolist()), strict=True)))

        def write(rows: Int[np.ndarray, "R W"]) -> None:
            nonlocal held, done
            held = np.concatenate([held, lookup[rows]])
            end = done + len(held) == image.size[0]
            ready = len(held) if end else len(held) // TILE * TILE
            if ready:
                target.write(held[:ready], 1, window=((done, done + ready), (0, image.size[1])))
                held, done = held[ready:].copy(), done + ready

        yield write
