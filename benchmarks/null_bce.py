"""Null BCE of one dataset's batch in a large union: folded and in bands, against the plain way. Time, memory, equality.

    python benchmarks/null_bce.py                  on the CPU, one thread
    python benchmarks/null_bce.py --device cuda

A union of 448 classes, 768 x 768 crops, features at a quarter of that, datasets that label 19 and 150 of the classes.
plain: cosines with all 448 nodes, upsampled; a one-hot target of the same size; BCE, masked to the dataset's nodes.
ours:  cosines with the dataset's nodes alone, `losses.binary_cross_entropy` in bands.

Every variant runs in a process of its own: forward and backward to features and classifier. Memory is the peak above
what the inputs need (the process's resident set on a CPU, the allocator's on a GPU), time the median of the repeats.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch.nn import functional as F

from manyseg import losses
from manyseg.labels import IGNORE
from manyseg.losses import Targets

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
    targets = Targets.of(losses.null_table(relation.cpu()), pixel.device)
    return losses.binary_cross_entropy(cosines(pixel, weight[targets.nodes]), labels, targets)


VARIANTS = {"plain": plain, "ours": ours}


def inputs(classes, nodes, channels, crop, batch, device):
    generator = torch.Generator().manual_seed(0)
    pixel = torch.randn(batch, channels, crop // 4, crop // 4, generator=generator)
    weight = torch.randn(nodes, channels, generator=generator)
    relation = F.one_hot(torch.randperm(nodes, generator=generator)[:classes], nodes).bool()
    labels = torch.randint(IGNORE, classes, (batch, crop, crop), generator=generator)
    leaves = [t.to(device).requires_grad_() for t in (pixel, weight)]
    return (*leaves, relation.to(device), labels.to(device))


def measure(variant, classes, options):
    """Run one variant and return its loss, seconds a step, peak bytes, and a checksum of the gradients."""
    cuda = options.device == "cuda"
    # A small step first: libraries load and choose their kernels outside of the measurement.
    VARIANTS[variant](*inputs(classes, options.nodes, options.channels, 32, 1, options.device)).backward()
    tensors = inputs(classes, options.nodes, options.channels, options.crop, options.batch, options.device)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else resident()
    seconds = []
    for _ in range(options.repeats):
        for leaf in tensors[:2]:
            leaf.grad = None
        start = time.perf_counter()
        loss = VARIANTS[variant](*tensors)
        loss.backward()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gradients = [t.grad.double().norm().item() for t in tensors[:2]]
    return {"loss": loss.item(), "gradients": gradients, "seconds": statistics.median(seconds), "bytes": peak - before}


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--nodes", type=int, default=448)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--crop", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]), options)))
        return 0
    print(f"{options.nodes} nodes, {options.batch} x {options.crop} x {options.crop}, torch {torch.__version__}")
    held = options.batch * options.nodes * options.crop**2 * 4
    print(f"one float32 map of all nodes at native size: {held / 2**20:.1f} MiB; on {options.device}")
    bad = 0
    for classes in (19, 150):
        results = {}
        for variant in VARIANTS:
            command = [sys.executable, *sys.argv, "--one", variant, str(classes)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[variant] = r = json.loads(out)
            cost = f"{r['seconds']:7.3f} s  {r['bytes'] / 2**20:8.1f} MiB"
            print(f"{classes:4} classes  {variant:5}  {cost}  loss {r['loss']:.6f}")
        a, b = results["plain"], results["ours"]
        pairs = zip((a["loss"], *a["gradients"]), (b["loss"], *b["gradients"]), strict=True)
        difference = max(abs(x - y) / abs(x) for x, y in pairs)
        memory, speed = a["bytes"] / b["bytes"], a["seconds"] / b["seconds"]
        print(
            f"{classes:4} classes  {memory:.1f} times less memory, {speed:.1f} times faster, equal to {difference:.1e}"
        )
        bad += difference > 1e-4 or b["bytes"] > held
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
