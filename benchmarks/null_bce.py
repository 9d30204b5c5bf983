"""Null BCE of one dataset's batch in a large union: folded and in bands, against the plain way. Time, memory, equality.

    python benchmarks/null_bce.py                  on the CPU, one thread
    python benchmarks/null_bce.py --device cuda

A union of 448 classes, 768 x 768 crops, features at a quarter of that, datasets that label 19 and 150 of the classes.
plain: cosines with all 448 nodes, upsampled; a one-hot target of the same size; BCE, masked to the dataset's nodes.
ours:  cosines with the dataset's nodes alone, `losses.binary_cross_entropy` in bands.

Every variant runs in a process of its own: forward and backward to features and classifier. Memory is the peak above
what the inputs need (the process's resident set on a CPU, the allocator's on a GPU), time the median of the repeats.
"""

import sys

import torch
from torch.nn import functional as F
from variants import compare

from manyseg import losses
from manyseg.labels import IGNORE
from manyseg.losses import BinaryTargets

SCALE = 20.0


def cosines(pixel, weight):
    return SCALE * F.conv2d(F.normalize(pixel, dim=1), F.normalize(weight, dim=1)[:, :, None, None])


def plain(pixel, weight, relation, labels):
    scores = F.interpolate(cosines(pixel, weight), size=labels.shape[1:], mode="bilinear", align_corners=False)
    valid = labels != IGNORE
    nodes = relation.int().argmax(1)[labels.clamp(min=0)]
    target = torch.zeros_like(scores).scatter_(1, nodes[:, None], 1.0)
    judged = valid[:, None] * relation.any(0)[:, None, None]
    each = F.binary_cross_entropy_with_logits(scores, target, reduction="none")
    return (each * judged).sum() / valid.sum()


def ours(pixel, weight, relation, labels):
    targets = BinaryTargets.of(losses.null_bce_targets(relation.cpu()), pixel.device)
    return losses.binary_cross_entropy(cosines(pixel, weight[targets.nodes]), labels, targets).mean()


VARIANTS = {"plain": plain, "ours": ours}


def inputs(classes, nodes, channels, crop, batch, device):
    generator = torch.Generator().manual_seed(0)
    pixel = torch.randn(batch, channels, crop // 4, crop // 4, generator=generator)
    weight = torch.randn(nodes, channels, generator=generator)
    relation = F.one_hot(torch.randperm(nodes, generator=generator)[:classes], nodes).bool()
    labels = torch.randint(IGNORE, classes, (batch, crop, crop), generator=generator)
    leaves = [t.to(device).requires_grad_() for t in (pixel, weight)]
    return (*leaves, relation.to(device), labels.to(device))


if __name__ == "__main__":
    options = {"nodes": 448, "repeats": 3, "tolerance": 1e-4, "least": 3}
    sys.exit(compare(__doc__, VARIANTS, inputs, **options))
