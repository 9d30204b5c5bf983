"""What can be found out before the first step: files, cards, options, memory, steps and time, in seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from manyseg.cores import available_cores
from manyseg.data.batch import Batch
from manyseg.data.folder import Folder
from manyseg.data.mixture import Mixture
from manyseg.data.quick_check import quick_check
from manyseg.errors import UserError, counted
from manyseg.evaluation.dataset_pass import check_views
from manyseg.methods.base import Method
from manyseg.methods.sources import StageStatistics, StageTaxonomy
from manyseg.runs.folder import RunFolder
from manyseg.runs.recipe import Recipe, Stage, build_method
from manyseg.runs.stages import Training, console, mix_table
from manyseg.training.kept_tensors import kept_bytes

__all__ = ["dry_run"]

SAMPLED = 50
"""Images of a split whose files are checked; the run itself checks all."""

PROBE = 128
"""Side of the crops of the step that is tried out, at most."""

UNKNOWN = (StageTaxonomy, StageStatistics)
"""Options that are not there before an earlier stage has ended."""


class Probe(NamedTuple):
    """What a step needs: bytes kept for the backward pass and seconds of the device, for a pixel; bytes of the rest."""

    activations: float
    seconds: float
    fixed: int


def dry_run(training: Training) -> None:
    """Print what the recipe of a run will do and need on this machine; write nothing.

    A step of the first stage is tried out with few, small crops of real images, and what it takes is scaled to the
    pixels of the recipe's step. Raises UserError for what would stop the run before its first step.
    """
    recipe, mixture, device = training.recipe, training.mixture, training.accelerator.device
    _check_files(recipe, training.folder)
    _check_sample([*mixture.folders, *training.read])
    check_views(training.read, recipe.test)
    console.print(mix_table(mixture, sum(s.train.steps * s.train.accumulate for s in training.stages)))
    rows = mixture.describe(training.steps)
    pixels = sum(row.crop[0] * row.crop[1] * row.per_step for row in rows) / mixture.world
    probes = {s.name: _probe(recipe, s, training, device) for s in training.stages if _is_known(s)}
    for stage in training.stages:
        line = f"stage '{stage.name}': {stage.train.steps} steps of {stage.kind.__name__}"
        console.print(line if stage.name in probes else f"{line}, of what an earlier stage finds, and not tried")
    reading = _reading_seconds(mixture)
    if probes:
        _print_needs(training, probes, pixels, reading)
    console.print(f"{recipe.file}: nothing was found that stops this run; its own check reads every file")


def _check_files(recipe: Recipe, folder: RunFolder) -> None:
    """Raise UserError for a run that is there already, and for a file that the recipe names and that is not."""
    folder.check_new()
    for key, weights in recipe.weights.items():
        if not weights.exists():
            raise UserError(f"{recipe.file}: model.{key}: there is no file {weights}; correct its name")
    for stage in recipe.stages:
        for key, value in stage.values().items():
            if isinstance(value, Path) and not value.is_file():
                raise UserError(
                    f"{recipe.file}: {key} of stage '{stage.name}': there is no file {value}; correct its name"
                )


def _check_sample(folders: Sequence[Folder]) -> None:
    """Print what is wrong with some images of every split; raises UserError if there is an error."""
    parts = [f.drawn(SAMPLED) if len(f) > SAMPLED else f for f in folders]
    # Of a sample nothing can be said of classes that do not occur.
    faults = [f for f in quick_check((), parts) if f.severity == "error"]
    for fault in faults:
        console.print(str(fault))
    if faults:
        raise UserError(f"{counted(len(faults), 'kind')} of error in the data, listed above; correct the files")
    count, whole = sum(map(len, parts)), sum(map(len, folders))
    console.print(f"files of {count} of {whole} images of {len(folders)} splits: no error")


def _is_known(stage: Stage) -> bool:
    return not any(isinstance(value, UNKNOWN) for value in stage.values().values())


def _probe(recipe: Recipe, stage: Stage, training: Training, device: torch.device) -> Probe:
    """Try out a step of a stage with one small crop of each dataset."""
    method = build_method(recipe, stage, training.spaces, None, pretrained=False).to(device).train()
    crops = [tuple(min(side, PROBE) for side in row.crop) for row in training.mixture.describe(1)]
    sets = tuple(
        s.model_copy(update={"crop": crop, "per_step": 1}) for s, crop in zip(recipe.data.sets, crops, strict=True)
    )
    options = recipe.data.model_copy(update={"sets": sets, "mix": "per_step", "batch": None, "workers": 0})
    batches = [b.to(device) for b in Mixture(training.mixture.folders, options, seed=recipe.seed)[0]]
    pixels = sum(len(b.ids) * b.image.shape[-2] * b.image.shape[-1] for b in batches)
    weights = [p for p in method.parameters() if p.requires_grad]
    fixed = sum(p.nbytes for p in method.parameters()) + sum(p.nbytes for p in weights)
    fixed += sum(p.nbytes for p in weights) * (1 if stage.train.optimizer == "sgd" else 2)
    if stage.train.shard:
        trunk = list(method.pixel_encoder.backbone.net.parameters())
        trained = sum(p.nbytes for p in trunk if p.requires_grad) * (2 if stage.train.optimizer == "sgd" else 3)
        whole = sum(p.nbytes for p in trunk) + trained
        fixed -= whole - whole // training.mixture.world
    kept, seconds = 0, 0.0
    for _ in range(2):  # The first one warms up.
        start = time.perf_counter()
        kept = _step(method, batches)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return Probe(kept / pixels, seconds / pixels, fixed)


def _step(method: Method, batches: Sequence[Batch]) -> int:
    """Go forward and backward; return the bytes that were kept for the backward pass, without the weights."""
    method.on_step(0)
    with kept_bytes(method) as kept:
        total = torch.stack([v.float() for v in method(batches).values()]).sum()
        used = kept()
    if total.requires_grad:
        total.backward()  # type: ignore[no-untyped-call]
    method.zero_grad()
    return used


def _reading_seconds(mixture: Mixture) -> float:
    """Return the seconds that a step's images take to be read, by all workers together."""
    start = time.perf_counter()
    _ = mixture[0]
    workers = min(mixture.options.workers or 1, available_cores())
    return (time.perf_counter() - start) / max(1, workers)


def _print_needs(training: Training, probes: Mapping[str, Probe], pixels: float, reading: float) -> None:
    device, stages = training.accelerator.device, [s for s in training.stages if s.name in probes]
    need, largest = max((_bytes(s, probes[s.name], pixels), s.name) for s in stages)
    have = ""
    if device.type == "cuda":
        have = f" of {_size(torch.cuda.get_device_properties(device).total_memory)}"
    console.print(f"memory of each process, estimated: {_size(need)}{have} (stage '{largest}')")
    seconds = max(probes[s.name].seconds * pixels * s.train.accumulate for s in stages)
    console.print(
        f"time on this machine, estimated: a step {seconds:.2g} s ({device.type}), its images read in {reading:.2g} s "
        f"by {training.mixture.options.workers} workers; {training.steps} steps without evaluations "
        f"{_duration(max(seconds, reading) * training.steps)}"
    )
    if reading > seconds:
        console.print("reading images is what takes longest: give it more data.workers")


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _bytes(stage: Stage, probe: Probe, pixels: float) -> float:
    return probe.fixed + probe.activations * pixels / (1 if stage.train.precision == "fp32" else 2)
