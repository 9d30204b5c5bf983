"""Exported models against the network: agreement, size, and speed on the CPU, in one run.

    python benchmarks/export.py PHOTOS [--backbone tf_efficientnet_lite0] [--size 256 512] [--runs 20]
    python benchmarks/export.py PHOTOS --run RUN --score CARD=ROOT [--score ...]

The network has published weights for its backbone and heads that were not trained: that changes neither speed nor how
exactly a file follows the network, but agreement of int8 depends on trained weights; see `--run` for those. `--score`
is a dataset of the run, whose split `val` the network and the files are scored on: both see an image at the size that
the file takes. Ranges of int8 come from the first 20 photos. Times are medians over runs that alternate between the
two, one image at a time, both with as many threads as torch chooses; "folded" is the network as `predict` runs it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch.nn import functional as F

import manyseg
from manyseg import testing
from manyseg.data.card import read_card
from manyseg.data.folder import Folder
from manyseg.evaluation.confusion import Confusion
from manyseg.export.files import agreement, write_onnx
from manyseg.export.graph import ExportGraph
from manyseg.export.predictor import fit
from manyseg.inference.options import TestOptions
from manyseg.methods import find_method
from manyseg.models import PixelEncoder
from manyseg.models.folding import fold_batch_norms
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
    parser.add_argument("--score", action="append", default=[], metavar="CARD=ROOT")
    asked = parser.parse_args()
    if asked.run:
        method = manyseg.load(asked.run, device="cpu").method
    else:
        torch.manual_seed(0)
        method = find_method("multihead")(PixelEncoder.build(backbone=asked.backbone), testing.toy_spaces()).eval()
    photos = [_photo(path, tuple(asked.size)) for path, _ in list_images([asked.photos])]
    graph = ExportGraph(method, [*method.spaces, method.taxonomy.unified])
    folders = [Folder(read_card(card), root, "val") for card, _, root in (text.partition("=") for text in asked.score)]
    print(f"{torch.get_num_threads()} threads, {len(photos)} photos of {asked.size[0]}x{asked.size[1]}")
    names = " | ".join(f"mIoU of {folder.space.name} (network {_miou(folder, graph):.2%})" for folder in folders)
    print(f"| file | MB | least agreement of a label space | network / file, time | folded / file | {names} |")
    print("|---|---:|---:|---:|---:|" + "---:|" * len(folders))
    folded = copy.deepcopy(graph)
    fold_batch_norms(folded.method.pixel_encoder, torch.from_numpy(photos[0].copy()).permute(2, 0, 1)[None])
    with tempfile.TemporaryDirectory() as place:
        for precision in PRECISIONS:
            path = Path(place) / f"{precision}.onnx"
            write_onnx(graph, path, TestOptions(), precision=precision, images=photos[:20])
            agreed = min(agreement(graph, path, photos).values())
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(path, options)
            ratio, after = (_ratio(g, session, photos[0][None], asked.runs) for g in (graph, folded))
            scores = " | ".join(f"{_miou(folder, graph, session):.2%}" for folder in folders)
            size = path.stat().st_size / 1e6
            print(f"| {precision} | {size:.1f} | {agreed:.2%} | {ratio:.2f} | {after:.2f} | {scores} |", flush=True)


@torch.no_grad()
def _miou(folder: Folder, graph: ExportGraph, session: onnxruntime.InferenceSession | None = None) -> float:
    """Score a file, or without one the network, on a dataset."""
    at, space = [s.name for s in graph.spaces].index(folder.space.name), folder.space
    total = Confusion(space, np.zeros((len(space), len(space) + 1), np.int64))
    for i in range(len(folder)):
        sample = folder.read(i)
        image = fit(sample.image.permute(1, 2, 0).numpy(), graph.multiple, None)[None]
        if session is None:
            found = graph(torch.from_numpy(image))[at][0]
        else:
            found = torch.from_numpy(session.run([graph.names[at]], {"image": image})[0][0])
        truth = sample.annotation.labels
        found = F.interpolate(found[None, None].float(), truth.shape[-2:], mode="nearest-exact")[0, 0].long()
        total += Confusion.of(space, truth.reshape(found.shape).long(), found)
    return total.miou


def _photo(path: Path, size: tuple[int, int]) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))


@torch.no_grad()
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
