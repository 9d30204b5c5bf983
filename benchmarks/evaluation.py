"""Metric work of evaluation: scores at feature resolution to IoU at native size, against torchmetrics.

    python benchmarks/evaluation.py [--threads N]

Both sides get the same tensors in one process: scores [B, D, h, w] at stride 4 and labels [B, H, W]. The reference
upsamples with `F.interpolate` and updates `torchmetrics.MulticlassJaccardIndex`. Ours is `argmax_map`, `count_pairs`
and `Confusion.iou`. Goal: a ratio of 5 on scores of segments. "noise" is the worst case, in which no two neighbouring
cells agree, as of no trained network.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassJaccardIndex

from manyseg.evaluation.confusion import Confusion, count_pairs
from manyseg.inference.label_maps import argmax_map
from manyseg.labels import IGNORE, LabelSpace

CASES = [(19, (512, 1024), 2, 75), (150, (512, 512), 2, 75), (19, (128, 256), 16, 35)]
"""Classes, native size, images, segments an image.

So many segments that cells disagree with a neighbour as often as in street masks of that size: one in ten at half a
megapixel, one in four at 256 pixels."""


def scene(
    classes: int, size: tuple[int, int], images: int, segments: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return scores and labels of images of random segments, one pixel in twenty unlabelled."""
    y, x = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
    labels = []
    for _ in range(images):
        seeds = torch.rand(segments, 2, generator=generator) * torch.tensor(size)
        distance = (y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2
        labels.append(torch.randint(0, classes, (segments,), generator=generator)[distance.argmin(-1)])
    truth = torch.stack(labels)
    low = truth[:, 2::4, 2::4]
    scores = 6 * F.one_hot(low, classes).movedim(-1, 1).float() + torch.randn(
        images, classes, *low.shape[1:], generator=generator
    )
    truth[torch.rand(truth.shape, generator=generator) < 0.05] = IGNORE
    return scores.contiguous(), truth


def ours(scores: Tensor, truth: Tensor) -> np.ndarray:
    classes = scores.shape[1]
    counts = count_pairs(truth, argmax_map(scores, (truth.shape[1], truth.shape[2])), classes, classes)
    return Confusion(LabelSpace.of("s", map(str, range(classes))), counts.numpy()).iou


def reference(scores: Tensor, truth: Tensor) -> np.ndarray:
    metric = MulticlassJaccardIndex(scores.shape[1], average=None, ignore_index=IGNORE, validate_args=False)
    metric.update(F.interpolate(scores, truth.shape[1:], mode="bilinear", align_corners=False), truth)
    return metric.compute().numpy()


def alternating(functions: list[Callable[[], object]], rounds: int = 9) -> Iterator[float]:
    """Yield the least seconds of the processor of each function, in turns, so that a noisy machine is so for all."""
    best = [math.inf] * len(functions)
    for _ in range(rounds):
        for i, function in enumerate(functions):
            start = time.process_time()
            function()
            best[i] = min(best[i], time.process_time() - start)
    yield from best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    warnings.filterwarnings("ignore", module="torchmetrics")
    generator = torch.Generator().manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    print("| scores | classes | size | ours images/s | torchmetrics images/s | ratio |\n|---|---:|---|---:|---:|---:|")
    for classes, size, images, segments in CASES:
        scores, truth = scene(classes, size, images, segments, generator)
        for name, given in (("segments", scores), ("noise", torch.randn(scores.shape, generator=generator))):
            found, expected = ours(given, truth), reference(given, truth)
            np.testing.assert_allclose(np.nan_to_num(found), expected, atol=1e-5)
            mine, theirs = alternating([lambda g=given, t=truth: ours(g, t), lambda g=given, t=truth: reference(g, t)])
            print(
                f"| {name} | {classes} | {size[0]}x{size[1]} | {images / mine:.1f} | {images / theirs:.1f} "
                f"| {theirs / mine:.1f} |"
            )


if __name__ == "__main__":
    main()
