"""The measuring part of benchmarks that set ours against the plain way of a head and a loss: no benchmark itself."""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import torch


def compare(
    description: str,
    variants: Mapping[str, Callable],
    inputs: Callable,
    *,
    nodes: int,
    repeats: int,
    tolerance: float,
    least: float,
) -> int:
    """Run the variants "plain" and "ours" in a process each, for 19 and 150 classes, and print their cost.

    `inputs(classes, nodes, channels, crop, batch, device)` are a variant's arguments, the first two with a gradient.
    Returns 1 where losses and gradients differ by more than `tolerance`, or ours saves less than `least` times the
    memory.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--nodes", type=int, default=nodes)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--crop", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(_measure(variants[options.one[0]], inputs, int(options.one[1]), options)))
        return 0
    size = f"{options.batch} x {options.crop} x {options.crop}"
    print(f"{options.nodes} nodes, {size}, torch {torch.__version__}, {options.device}")
    bad = 0
    for classes in (19, 150):
        results = {}
        for variant in variants:
            command = [sys.executable, *sys.argv, "--one", variant, str(classes)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[variant] = r = json.loads(out)
            cost = f"{r['seconds']:7.3f} s  {r['bytes'] / 2**20:8.1f} MiB"
            print(f"{classes:4} classes  {variant:5}  {cost}  loss {r['loss']:.6f}", flush=True)
        a, b = results["plain"], results["ours"]
        pairs = zip((a["loss"], *a["gradients"]), (b["loss"], *b["gradients"]), strict=True)
        difference = max(abs(x - y) / abs(x) for x, y in pairs)
        memory, speed = a["bytes"] / b["bytes"], a["seconds"] / b["seconds"]
        gain = f"{memory:.1f} times less memory, {speed:.1f} times faster, equal to {difference:.1e}"
        print(f"{classes:4} classes  {gain}")
        bad += difference > tolerance or memory < least
    return int(bad > 0)


def _measure(variant: Callable, inputs: Callable, classes: int, options: argparse.Namespace) -> dict:
    """Return the loss, seconds a step, peak bytes, and a checksum of the gradients."""
    cuda = options.device == "cuda"
    # A small step first: libraries load and choose their kernels outside of the measurement.
    variant(*inputs(classes, options.nodes, options.channels, 32, 1, options.device)).backward()
    tensors = inputs(classes, options.nodes, options.channels, options.crop, options.batch, options.device)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else _resident()
    seconds = []
    for _ in range(options.repeats):
        for leaf in tensors[:2]:
            leaf.grad = None
        start = time.perf_counter()
        loss = variant(*tensors)
        loss.backward()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gradients = [t.grad.double().norm().item() for t in tensors[:2]]
    return {"loss": loss.item(), "gradients": gradients, "seconds": statistics.median(seconds), "bytes": peak - before}


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
