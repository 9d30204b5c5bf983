"""Exported models against the network: agreement, size, and speed on the CPU, in one run.

    python benchmarks/export.py PHOTOS [--backbone tf_efficientnet_lite0] [--size 256 512] [--runs 20]

The network has published weights for its backbone and heads that were not trained: that changes neither speed nor how
exactly a file follows the network, but agreement of int8 depends on trained weights; see `--run` for those. Times are
medians over runs that alternate between the two, one image at a time, with as many threads as torch chooses.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image

import manyseg
from manyseg import testing
from manyseg.export.files import agreement, write_onnx
from manyseg.export.graph import ExportGraph
from manyseg.inference.options import TestOptions
from manyseg.methods import find_method
from manyseg.models import PixelEncoder
from manyseg.prediction.predict import list_images

PRECISIONS = ("fp32", "fp16", "int8")


def main() -> None:
    """Print a row for every precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--run", type=Path, help="a trained run; without it, an untrained multihead")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512))
    parser.add_argument("--runs", type=int, default=20)
    asked = parser.parse_args()
    if asked.run:
        method = manyseg.load(asked.run, device="cpu").method
    else:
        torch.manual_seed(0)
        method = find_method("multihead")(PixelEncoder.build(backbone=asked.backbone), testing.toy_spaces()).eval()
    photos = [_photo(path, tuple(asked.size)) for path, _ in list_images([asked.photos])]
    graph = ExportGraph(method, [*method.spaces, method.taxonomy.unified])
    print(f"{torch.get_num_threads()} threads, {len(photos)} photos of {asked.size[0]}x{asked.size[1]}")
    print("| file | MB | least agreement of a label space | network / file, time |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            path = Path(folder) / f"{precision}.onnx"
            write_onnx(graph, path, TestOptions(), precision=precision, images=photos[:20])
            agreed = min(agreement(graph, path, photos).values())
            ratio = _ratio(graph, onnxruntime.InferenceSession(path), photos[0][None], asked.runs)
            print(f"| {precision} | {path.stat().st_size / 1e6:.1f} | {agreed:.2%} | {ratio:.2f} |", flush=True)


def _photo(path: Path, size: tuple[int, int]) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))


@torch.inference_mode()
def _ratio(graph: ExportGraph, session: onnxruntime.InferenceSession, image: np.ndarray, runs: int) -> float:
    """Return the median time of the network over that of the file, run in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    tensor = torch.from_numpy(image)
    calls = (lambda: graph(tensor), lambda: session.run(None, {"image": image}))
    for n in range(runs + 2):
        for call, kept in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if n >= 2:
                kept.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])


if __name__ == "__main__":
    main()
