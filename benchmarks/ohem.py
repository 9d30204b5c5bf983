"""Cross entropy with online hard example mining against the same without it, and against choosing pixels first.

    python benchmarks/ohem.py [--classes 19] [--crop 512] [--rounds 7]

Forward and backward, one CPU thread, the variants in turns. "hard" scores are those of a network that has learned
little, so that most pixels are kept; "easy" ones have fewer hard pixels than the share that is always kept.
two passes: the loss of every pixel first, then the loss of the chosen ones, which upsamples all scores twice.
The last line is JSON: CPU seconds of each variant over those of plain cross entropy.
"""

import argparse
import json
import math
import statistics
import time

import torch
from torch.nn import functional as F

from manyseg import losses
from manyseg.labels import IGNORE

PROBABILITY, SHARE = 0.7, 16


def plain(scores, labels):
    return losses.cross_entropy(scores, labels).mean()


def ohem(scores, labels):
    return losses.cross_entropy(scores, labels, ohem=PROBABILITY).mean()


def two_passes(scores, labels):
    with torch.no_grad():
        bands = [
            F.cross_entropy(
                F.interpolate(one[None], size=labels.shape[1:], mode="bilinear", align_corners=False),
                label[None],
                ignore_index=IGNORE,
                reduction="none",
            )
            for one, label in zip(scores, labels, strict=True)
        ]
        every = torch.cat(bands).masked_fill(labels == IGNORE, -math.inf)
        last = every.flatten().topk(max(1, int((labels != IGNORE).sum()) // SHARE)).values[-1]
        kept = torch.where(every >= last.clamp(max=-math.log(PROBABILITY)), labels, IGNORE)
    return losses.cross_entropy(scores, kept).mean()


VARIANTS = {"plain": plain, "ohem": ohem, "two passes": two_passes}


def inputs(classes: int, crop: int, sure: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores at a quarter of the labels' size, which favour the true class by `sure`, and labels."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, classes, (2, crop // 16, crop // 16), generator=generator)
    labels = cells.repeat_interleave(16, 1).repeat_interleave(16, 2)
    scores = torch.randn(2, classes, crop // 4, crop // 4, generator=generator)
    return scores + sure * F.one_hot(labels[:, ::4, ::4], classes).movedim(-1, 1), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {}
    for name, sure in (("hard", 1.0), ("easy", 14.0)):
        scores, labels = inputs(args.classes, args.crop, sure)
        scores.requires_grad_()
        seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        values = {}
        for _ in range(args.rounds):
            for variant, loss in VARIANTS.items():
                scores.grad = None
                start = time.process_time()
                value = loss(scores, labels)
                value.backward()
                seconds[variant].append(time.process_time() - start)
                values[variant] = (value.item(), scores.grad.norm().item())
        assert all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(values["ohem"], values["two passes"], strict=True))
        of_plain = {v: statistics.median(s) / statistics.median(seconds["plain"]) for v, s in seconds.items()}
        for variant, ratio in of_plain.items():
            print(f"{name}: {variant:10} {ratio:.2f} of plain cross entropy's time")
        result[name] = {variant: round(ratio, 2) for variant, ratio in of_plain.items()}
    print(json.dumps({"benchmark": "ohem", **result}))


if __name__ == "__main__":
    main()
