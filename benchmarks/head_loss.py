"""Head and loss of one dataset's batch: folded and in bands, against the plain way. Time, peak memory, equal losses.

    python benchmarks/head_loss.py                  on the CPU, one thread
    python benchmarks/head_loss.py --device cuda

250 unified nodes, 768 x 768 crops, features at a quarter of that, datasets of 19 and 150 classes whose class scores are
the sums of their nodes' logits (AutoUniSeg).
plain: score all nodes, upsample all, sum them up to classes, cross entropy.
ours:  sum the prototypes of each class first, score its classes, `losses.cross_entropy` in bands.

Every variant runs in a process of its own: forward and backward to features and prototypes. Memory is the peak above
what the inputs need (the process's resident set on a CPU, the allocator's on a GPU), time the median of the repeats.
"""

import sys

import torch
from torch.nn import functional as F
from variants import compare

from manyseg import losses
from manyseg.labels import IGNORE


def plain(pixel, prototypes, relation, labels):
    scores = torch.einsum("uc,bchw->buhw", prototypes, pixel)
    scores = F.interpolate(scores, size=labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(torch.einsum("du,buhw->bdhw", relation, scores), labels, ignore_index=IGNORE)


def ours(pixel, prototypes, relation, labels):
    scores = F.conv2d(pixel, (relation @ prototypes)[:, :, None, None])
    return losses.cross_entropy(scores, labels).mean()


VARIANTS = {"plain": plain, "ours": ours}


def inputs(classes, nodes, channels, crop, batch, device):
    generator = torch.Generator().manual_seed(0)
    pixel = torch.randn(batch, channels, crop // 4, crop // 4, generator=generator)
    prototypes = 0.05 * torch.randn(nodes, channels, generator=generator)
    owner = torch.cat([torch.arange(classes), torch.randint(0, classes, (nodes - classes,), generator=generator)])
    relation = F.one_hot(owner, classes).T.float()
    labels = torch.randint(IGNORE, classes, (batch, crop, crop), generator=generator)
    return (
        pixel.to(device).requires_grad_(),
        prototypes.to(device).requires_grad_(),
        relation.to(device),
        labels.to(device),
    )


if __name__ == "__main__":
    options = {"nodes": 250, "repeats": 5, "tolerance": 1e-5, "least": 3}
    sys.exit(compare(__doc__, VARIANTS, inputs, **options))
