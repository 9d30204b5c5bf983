"""AutoUniSeg's graph step and rounding at full size: 448 classes of seven datasets, 302 unified nodes.

    python benchmarks/transport.py [--hidden 2048]        needs MANYSEG_DATA; POT (`pip install pot`) for the ratio

Rounding: the transport of all seven datasets as `Rounding` asks for it, from nothing and from the plan of the map
before (the adjacency moved a little), against POT's default call on the same costs: as it is, which stops after 1000
sweeps, and left to run until it has converged. Equal rounding: the share of nodes that get the same class.
Graph: forward and backward of all T + U nodes, once a training step.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np
import torch

from manyseg.labels import LabelSpace
from manyseg.methods.rounding import Rounding
from manyseg.models.graph import LabelGraph
from manyseg.relate.assignment import covering_assignment, transport
from manyseg.relate.statistics import Statistics

DATA = Path(os.environ.get("MANYSEG_DATA", ".")) / "labels7"
REG, REG_M, TOL = 0.01, 5.0, 1e-6


def label_space():
    rows = json.loads((DATA / "mseg_relations.json").read_text())
    spaces = [LabelSpace.of(d, [e["class"] for e in each]) for d, each in rows.items()]
    counts = {tuple(k.split("__")): v for k, v in np.load(DATA / "confusions.npz").items()}
    known = Statistics("benchmark", counts, {}, {}, {}, {})
    merge = MergeOptions(tau=0.4, pair_cost=0.05, reward=0.5)
    taxonomy = initial_nodes(spaces, "confusion", known, None, merge, PruningOptions()).taxonomy
    return [len(s) for s in spaces], taxonomy.joint_relation


def shares(adjacency, sizes):
    return [(p / 0.07).softmax(0).double().numpy() for p in adjacency.split(sizes)]


def timed(call, repeats=5):
    """Return the median time of a call in ms, and what it returned last."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = call()
        times.append(1e3 * (time.perf_counter() - start))
    return median(times), found


def pot(cost, demand, sweeps):
    """Return POT's plans, or None where it is not installed."""
    try:
        from ot.unbalanced import sinkhorn_unbalanced
    except ImportError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge is what is measured
        return [
            sinkhorn_unbalanced(np.full(len(c), 1 / len(c)), b, c, REG, REG_M, numItermax=sweeps, stopThr=TOL)
            for c, b in zip(cost, demand, strict=True)
        ]


def ours(cost, demand, plans):
    starts = [None if p is None else (p.node_potentials, p.class_potentials) for p in plans]
    return [
        transport(c, b, reg=REG, reg_m=REG_M, tol=TOL, initial=s) for c, b, s in zip(cost, demand, starts, strict=True)
    ]


def rounding(sizes, adjacency):
    """Print the time of all seven transports, and how many nodes get the same class."""
    torch.manual_seed(0)
    cost = [
        [(1 - S.T + 1e-8) / 2 for S in shares(adjacency + 0.02 * torch.randn_like(adjacency), sizes)] for _ in range(2)
    ]
    demand, none = [np.full(d, 1 / d) for d in sizes], [None] * len(sizes)
    before = ours(cost[0], demand, none)
    cold, plans = timed(lambda: ours(cost[1], demand, none))
    warm, again = timed(lambda: ours(cost[1], demand, before))
    owners = [covering_assignment(p.mass) for p in plans]
    steps = [sum(p.steps for p in each) for each in (plans, again)]
    print(f"{'rounding by':20} {'ms':>8} {'x warm':>8}   nodes of the same class as ours from nothing")
    line("ours, from nothing", cold, warm, owners, owners, f"{steps[0]} Newton steps")
    line("ours, warm", warm, warm, [covering_assignment(p.mass) for p in again], owners, f"{steps[1]} Newton steps")
    for name, sweeps in (("POT, default call", 1000), ("POT, converged", 200_000)):
        took, masses = timed(lambda sweeps=sweeps: pot(cost[1], demand, sweeps), 3)
        if masses is None:
            print("POT is not installed: no ratio against it")
            return
        line(name, took, warm, [covering_assignment(Q) for Q in masses], owners, f"at most {sweeps} sweeps")


def line(name, took, warm, found, owners, note):
    same = np.mean(np.concatenate([f == o for f, o in zip(found, owners, strict=True)]))
    print(f"{name:20} {took:8.1f} {took / warm:8.1f}   {same:7.2%}   {note}", flush=True)


def graph(sizes, start, hidden, device):
    """Print time and memory of the graph's forward and backward pass, and of rounding as a run does it."""
    torch.manual_seed(0)
    net = LabelGraph(sizes, torch.from_numpy(start), torch.randn(sum(sizes), 4096), 512, hidden=hidden).to(device)
    step = Rounding(sizes, start).to(device)
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    parameters = sum(p.numel() for p in net.parameters())

    def learn():
        net().nodes.square().mean().backward()
        net.zero_grad(set_to_none=True)
        sync()

    took = timed(learn, 3)[0]
    step.update(net.shares().detach())
    with torch.no_grad():
        net.adjacency.add_(0.02 * torch.randn_like(net.adjacency))
    whole = timed(lambda: step.update(net.shares().detach()), 1)[0]
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    print(f"{device}: graph step {took:.1f} ms, {parameters / 1e6:.1f} M parameters; rounding in a run {whole:.1f} ms;")
    print(f"  peak memory {peak / 2**20:.0f} MiB ({'allocated' if device == 'cuda' else 'of the process'})", flush=True)


def main():
    if not DATA.exists():
        print("skipped: there is no folder labels7 in the one that the environment variable MANYSEG_DATA names")
        return 0
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden", type=int, default=2048)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes, start = label_space()
    print(f"{len(sizes)} datasets, {sum(sizes)} classes, {start.shape[1]} nodes; one thread on the CPU")
    net = LabelGraph(sizes, torch.from_numpy(start), 8, 8, hidden=8)
    rounding(sizes, net.adjacency.detach())
    for device in ["cpu", "cuda"][: 1 + torch.cuda.is_available()]:
        graph(sizes, start, options.hidden, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
