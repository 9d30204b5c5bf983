"""Matching and mask losses of a step: ours against Hugging Face's MaskFormer loss on the same tensors.

    python benchmarks/matching.py                       on the CPU, one thread
    python benchmarks/matching.py --device cuda

By default 8 images of 640 x 640, masks at a quarter of that, 100 queries, 6 blocks, 133 classes, 20 segments an image,
no ignored pixel: the definitions then agree, and so must the values. Inputs are the queries' mask embeddings and the
pixels' embeddings, from which both make the masks; the gradient goes to these and to the class scores.

Every variant runs in a process of its own. Memory is the peak above what the inputs need (the process's resident set on
a CPU, the allocator's on a GPU), time the median of the repeats.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from manyseg.losses.mask import mask_losses, point_losses
from manyseg.losses.matching import match, pair_costs, resize_nearest
from manyseg.losses.set_prediction import class_loss

FOCAL, DICE, BACKGROUND = 20.0, 1.0, 0.1


def hugging_face(queries, pixel, scores, ids, classes, points):
    """Make all masks and call the library's loss, block after block, as its model does."""
    from transformers.models.maskformer import modeling_maskformer as reference

    matcher = reference.MaskFormerHungarianMatcher(cost_class=1.0, cost_dice=DICE, cost_mask=FOCAL)
    loss = reference.MaskFormerLoss(scores.shape[-1] - 1, matcher, {}, BACKGROUND).to(pixel.device)
    segments = torch.arange(classes.shape[1], device=ids.device)[:, None, None]
    targets = [(plane == segments).float() for plane in ids]
    every = [
        {"masks_queries_logits": torch.einsum("bqc,bchw->bqhw", q, pixel), "class_queries_logits": s}
        for q, s in zip(queries, scores, strict=True)
    ]
    last = every.pop()
    found = loss(last["masks_queries_logits"], last["class_queries_logits"], targets, list(classes), every)
    parts = {"class": "loss_cross_entropy", "focal": "loss_mask", "dice": "loss_dice"}
    sums = {name: sum(v for k, v in found.items() if k.startswith(key)) for name, key in parts.items()}
    return sums["class"] + FOCAL * sums["focal"] + DICE * sums["dice"]


def ours(queries, pixel, scores, ids, classes, points):
    """Costs of all blocks, one copy to the host, masks of matched queries only, upsampled a few at a time."""
    logp = scores.log_softmax(-1)
    with torch.no_grad():
        small = resize_nearest(ids, tuple(pixel.shape[2:])).flatten(1)
        flat = pixel.flatten(2)
        costs = [pair_costs(p.exp(), q @ flat, small, classes, FOCAL, DICE) for p, q in zip(logp, queries, strict=True)]
        (found,) = match([torch.stack(costs)])
    pairs, masks, start = queries[found.block, found.image, found.query], [], 0
    for image, count in zip(pixel, found.counts, strict=True):
        masks.append(torch.einsum("nc,chw->nhw", pairs[start : start + count], image))
        start += count
    if points:
        focal, dice = point_losses(torch.cat(masks), found.segment, ids, found.counts, points)
    else:
        focal, dice = mask_losses(torch.cat(masks), found.segment, ids, found.counts)
    wanted = torch.full(logp.shape[:-1], logp.shape[-1] - 1, device=ids.device)
    wanted[found.block, found.image, found.query] = classes[found.image, found.segment]
    return class_loss(logp, wanted, BACKGROUND).mean() + (FOCAL * focal + DICE * dice) / found.segments


VARIANTS = {"hugging_face": hugging_face, "ours": ours}


def inputs(o):
    g = torch.Generator().manual_seed(0)
    side, low = o.size, o.size // 4
    queries = torch.randn(o.blocks, o.images, o.queries, 256, generator=g) / 16
    pixel = torch.randn(o.images, 256, low, low, generator=g)
    scores = torch.randn(o.blocks, o.images, o.queries, o.classes + 1, generator=g)
    # Blocks of pixels, every segment at least once.
    cells = torch.rand(o.images, 100, generator=g).argsort(1) % o.segments
    ids = cells.view(-1, 10, 10).repeat_interleave(side // 10, 1).repeat_interleave(side // 10, 2)
    classes = torch.randint(0, o.classes, (o.images, o.segments), generator=g)
    tensors = [t.to(o.device) for t in (queries, pixel, scores, ids, classes)]
    return [t.requires_grad_(t.is_floating_point()) for t in tensors]


def measure(o):
    """Run one variant and return its loss, seconds a step, peak bytes, and a checksum of the gradients."""
    torch.set_num_threads(1)
    cuda = o.device == "cuda"
    given, variant = inputs(o), VARIANTS[o.variant]
    # Imports, caches and the first kernels are no part of what is compared.
    tiny = argparse.Namespace(**{**vars(o), "size": 40, "images": 1, "segments": 2, "queries": 3})
    torch.autograd.backward(variant(*inputs(tiny), o.points))
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    times = []
    for _ in range(o.repeats + 1):
        for t in given[:3]:
            t.grad = None
        start = time.perf_counter() if cuda else time.process_time()
        loss = variant(*given, o.points)
        torch.autograd.backward(loss)
        if cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() if cuda else time.process_time()) - start)
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    checksum = [t.grad.double().abs().sum().item() for t in given[:3]]
    return {
        "loss": loss.item(),
        "seconds": statistics.median(times[1:] or times),
        "bytes": peak - before,
        "gradients": checksum,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    for name, value in (("images", 8), ("size", 640), ("queries", 100), ("blocks", 6), ("classes", 133)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--segments", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--points", type=int, default=0, help="ours on sampled points; values then differ")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.variant:
        print(json.dumps(measure(o)))
        return
    found = {}
    for name in VARIANTS:
        command = [sys.executable, __file__, *sys.argv[1:], "--variant", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        r = found[name]
        print(
            f"{name:13} {r['seconds'] * 1e3:9.0f} ms  {r['bytes'] / 2**20:7.0f} MiB  loss {r['loss']:.6f}", flush=True
        )
    ours, theirs = found["ours"], found["hugging_face"]
    print(
        f"ratio: {theirs['seconds'] / ours['seconds']:.2f} times faster, "
        f"{theirs['bytes'] / max(ours['bytes'], 1):.1f} times smaller"
    )
    if not o.points:
        worst = max(abs(a - b) / b for a, b in zip(ours["gradients"], theirs["gradients"], strict=True))
        print(
            f"equal: losses within {abs(ours['loss'] / theirs['loss'] - 1):.1e}, sums of gradients within {worst:.1e}"
        )


if __name__ == "__main__":
    main()
