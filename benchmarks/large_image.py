"""Memory and time of a label map of an image that is read and written by windows.

    python benchmarks/large_image.py [--side 20000] [--window 1024] [--overlap 0.1] [--classes 19]

The image is a TIFF of 8-bit colours in tiles of 512 pixels, made here row by row; the network is "tiny" and not
trained, so that the time is about that of reading, blending and writing. Memory is the peak of resident memory of the
process, less what it held before the image was opened, with a model that had seen one window.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch

from manyseg.inference.options import TestOptions
from manyseg.labels import LabelSpace
from manyseg.methods import find_method
from manyseg.models import PixelEncoder
from manyseg.prediction.model import Model
from manyseg.prediction.predict import predict_paths


def main() -> None:
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=20000)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--overlap", type=float, default=0.1)
    parser.add_argument("--classes", type=int, default=19)
    asked = parser.parse_args()
    torch.manual_seed(0)
    encoder = PixelEncoder.build(backbone="tiny", pretrained=False, channels=16)
    space = LabelSpace.of("s", [f"class {i}" for i in range(asked.classes)])
    options = TestOptions(window=(asked.window, asked.window), overlap=asked.overlap)
    model = Model(find_method("multihead")(encoder, [space]), [space], options)
    model.predict(np.zeros((asked.window, asked.window, 3), np.uint8), "s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.tif"
        _write(path, asked.side)
        before, start = _peak(), time.monotonic()
        (mask,) = predict_paths(model, [path], "s", folder, kinds=["masks", "overlays"]).files
        seconds = time.monotonic() - start
        print("| image | MB as 8-bit colours | MB more than before | seconds | MB of the label map's file |")
        print("|---|---|---|---|---|")
        sizes = f"{asked.side}x{asked.side} | {3 * asked.side**2 / 1e6:.0f}"
        cost = f"{(_peak() - before) / 1e3:.0f} | {seconds:.0f}"
        print(f"| {sizes} | {cost} | {mask.stat().st_size / 1e6:.1f} |")


def _peak() -> int:
    """Return the peak of resident memory, in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _write(path: Path, side: int) -> None:
    """Write blocks of 64 pixels in random colours."""
    random = np.random.default_rng(0)
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=3, dtype="uint8", tiled=True, blockxsize=512,
        blockysize=512, compress="deflate", transform=rasterio.Affine(1, 0, 0, 0, -1, side),
    ) as file:  # fmt: skip
        for top in range(0, side, 512):
            rows = min(512, side - top)
            small = random.integers(0, 256, (3, 8, side // 64 + 1), np.uint8)
            file.write(small.repeat(64, 1).repeat(64, 2)[:, :rows, :side], window=((top, top + rows), (0, side)))


if __name__ == "__main__":
    main()
