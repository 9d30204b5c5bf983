"""What a recipe leaves open, chosen for the machine and the data: method, crop, images a step, steps, precision.

A choice is an assignment that a person could have written. It is printed with its reason and kept in the run's recipe,
from which resuming takes it again, on whatever machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from manyseg.config import flatten, read_toml, toml_value
from manyseg.cores import available_cores
from manyseg.data.folder import Folder
from manyseg.errors import UserError, counted
from manyseg.inference.options import GRID
from manyseg.models import PixelEncoder, timm_networks
from manyseg.models.text import has_offline_encoder
from manyseg.runs.folder import RunFolder
from manyseg.runs.recipe import Recipe
from manyseg.training.kept_tensors import kept_bytes

__all__ = ["ChosenOption", "Machine", "choose", "fitted"]

SIDE = {"cuda": 512, "cpu": 160}
"""The crop has about the pixels of a square of this side at most; other accelerators are taken for CPUs."""

IMAGES = {"cuda": 16, "cpu": 9}
"""Images of a step in all at least, on each process, where its memory holds them; of each dataset the same number."""

STEPS = {"cuda": (2000, 40_000), "cpu": (300, 2000)}
"""Fewest and most steps."""

EPOCHS = 30
"""How often the largest dataset is seen, within the fewest and most steps."""

SMALL_PART = 1 / 3
"""Side of the crop over the image's, below which that is said."""

MULTIPLE = 32
"""Sides of the crop are multiples of the coarsest level's stride."""

FREE = 0.5
"""Part of the memory that activations may have; the other is for weights, scores and what else runs there."""

PROBE = 128
"""Side of the image on which the memory of activations is measured."""

LOGIT_ADJUSTMENT = 0.2
"""Chosen with `multihead` on a part of the training lists of streets, see docs/results.md."""

CLASS_TEMPERATURE = 2.0
"""Chosen like LOGIT_ADJUSTMENT; both together are better than each."""

OHEM = 0.7
"""Chosen likewise."""

SHORT = {"model.channels": 128, "train.lr": 2e-3, "data.scale": [0.75, 1.5]}
"""What the few steps of a CPU are best spent with, for the network that a recipe without `backbone` has; likewise."""

COUNTED = 20_000
"""Images of all datasets at most whose labels are counted unasked, which takes minutes."""

LOOKED_AT = 20
"""Images of a dataset whose sizes are read."""


class Machine(NamedTuple):
    """What trains: a kind of device, its memory in bytes (None: not asked), and how many processes share a step."""

    kind: str
    name: str
    memory: int | None = None
    bf16: bool = False
    processes: int = 1

    @classmethod
    def of(cls, accelerator: Accelerator) -> Machine:
        """Describe this process's device; of several processes, the smallest memory, so that all choose alike."""
        device, processes = accelerator.device, accelerator.num_processes
        if device.type != "cuda":
            cores, threads = available_cores(), torch.get_num_threads()
            return cls(
                "cpu",
                f"{device.type}, {counted(cores, 'core')}, {counted(threads, 'thread')}",
                processes=processes,
            )
        known = torch.cuda.get_device_properties(device)
        memory = int(accelerator.gather(torch.tensor([known.total_memory], device=device)).min())
        name = f"{known.name}, {memory / 2**30:.0f} GiB"
        return cls("cuda", name, memory, torch.cuda.is_bf16_supported(), processes)


class ChosenOption(NamedTuple):
    """A value for a key that the recipe does not give, and why this one."""

    key: str
    value: Any
    reason: str

    @property
    def assignment(self) -> str:
        """The choice as `--set` takes it."""
        return f"{self.key}={toml_value(self.value)}"


def choose(recipe: Recipe, machine: Machine) -> list[ChosenOption]:
    """Choose what the recipe leaves open.

    Opens the training sets where their sizes matter, and reads the headers of some of their images. Raises UserError
    where a set cannot be opened.
    """
    data, train = recipe.data, recipe.train
    needs_crop = any("crop" not in (data.model_fields_set | set(s.own)) for s in data.sets)
    needs_steps, needs_method = "steps" not in train.model_fields_set, "method" not in recipe.model_fields_set
    opens = needs_crop or needs_steps or needs_method
    folders = [s.open_train(recipe.base) for s in data.sets] if opens else []
    found = []
    if needs_method:
        found += _method(recipe) + _rare_classes(recipe, folders)
        # A run to start from has a network already.
        if machine.kind == "cpu" and recipe.start is None and not {"backbone", "init"} & recipe.model.keys():
            found += _short(recipe)
    crop = data.crop
    if needs_crop:
        found.append(_crop(folders, machine))
        crop = (found[-1].value[0], found[-1].value[1])
    per_step = [s.per_step for s in data.sets]
    if data.mix == "per_step" and not any(per_step):
        count, reason = _images(recipe, crop, machine)
        per_step = [count] * len(data.sets)
        found += [ChosenOption(f"data.sets.{i}.per_step", count, reason) for i in range(len(data.sets))]
    if needs_steps:
        found.append(_steps(folders, per_step, data.batch or sum(n or 0 for n in per_step), machine))
    if "window" not in recipe.test.model_fields_set and _is_plain(recipe):
        window = [math.ceil(side / GRID) * GRID for side in crop]
        found.append(ChosenOption("test.window", window, "a plain transformer is best at the size it is trained at"))
    if "precision" not in train.model_fields_set and machine.bf16:
        found.append(ChosenOption("train.precision", "bf16", "the device has it"))
    return found


def _method(recipe: Recipe) -> list[ChosenOption]:
    """Choose a method that finds one label space for all datasets, where there are several."""
    hard = ChosenOption(
        "method.ohem", OHEM, "learns from the pixels that are not yet right, which helps short trainings"
    )
    if len(recipe.data.sets) == 1:
        return [ChosenOption("method.name", "multihead", "one dataset has no other's labels to be united with"), hard]
    why = "finds one label space for all datasets while it trains; multihead keeps them apart"
    chosen = [ChosenOption("method.name", recipe.method["name"], why), hard]
    if not has_offline_encoder():
        why = "starts from equal names, as no text encoder is installed: pip install 'manyseg[offline]'"
        chosen.append(ChosenOption("method.taxonomy", "names", why))
    return chosen


def _rare_classes(recipe: Recipe, folders: Sequence[Folder]) -> list[ChosenOption]:
    """Choose that rare classes are shown and called more often, unless the recipe says how often."""
    found, given = [], _given(recipe)
    if "data.class_temperature" not in given and sum(map(len, folders)) <= COUNTED:
        why = "images with rare classes are shown more often, for the mean IoU; labels are counted once"
        found.append(ChosenOption("data.class_temperature", CLASS_TEMPERATURE, why))
    if "test.logit_adjustment" not in given:
        why = "rare classes are called more often, for the mean IoU; a little pixel accuracy is lost"
        found.append(ChosenOption("test.logit_adjustment", LOGIT_ADJUSTMENT, why))
    return found


def _short(recipe: Recipe) -> list[ChosenOption]:
    """Choose what helps trainings of few steps, unless the recipe says something else."""
    given, why = _given(recipe), "for trainings as short as a CPU's"
    return [ChosenOption(key, value, why) for key, value in SHORT.items() if key not in given]


def _given(recipe: Recipe) -> set[str]:
    """List the keys that the recipe gives, of a set's own augmentation as of all."""
    tables = {
        "model": recipe.model,
        "train": recipe.train.model_fields_set,
        "test": recipe.test.model_fields_set,
        "data": recipe.data.model_fields_set.union(*(s.own for s in recipe.data.sets)),
    }
    return {f"{table}.{key}" for table, keys in tables.items() for key in keys}


def fitted(recipe: Recipe, folder: RunFolder, accelerator: Accelerator) -> list[str]:
    """Choose and say what a recipe leaves open, or take it from the run that is there; return the assignments."""
    machine = Machine.of(accelerator)
    choices = choose(recipe, machine)
    if choices and folder.started:
        folder.check("recipe.toml")
        kept = flatten(read_toml(folder.recipe))
        # What it does not hold was not chosen when the run began, maybe by an earlier version.
        choices = [ChosenOption(c.key, kept[c.key], "as the run began") for c in choices if c.key in kept]
    if choices and accelerator.is_main_process:
        print(f"not in the recipe, so chosen ({machine.name}); write into it, or --set, what you want otherwise:")
        for choice in choices:
            print(f"  {choice.assignment}  # {choice.reason}")
    return [choice.assignment for choice in choices]


def _is_plain(recipe: Recipe) -> bool:
    """Say whether the recipe's trunk is a plain transformer."""
    name = recipe.model.get("backbone")
    return name not in (None, "tiny") and timm_networks.is_plain(timm_networks.resolve(name))


def _crop(folders: Sequence[Folder], machine: Machine) -> ChosenOption:
    sizes = [_median_size(folder) for folder in folders]
    height, width = (median(side) for side in zip(*sizes, strict=True))
    scale = min(1.0, SIDE[machine.kind] / math.sqrt(height * width))
    parts = (max(1, min(round(scale * side / MULTIPLE), int(side / MULTIPLE))) for side in (height, width))
    value = [MULTIPLE * part for part in parts]
    most = f"about {SIDE[machine.kind]}x{SIDE[machine.kind]} pixels at most are right for this device"
    part = "; it shows a small part of an image, data.short_side would show more" if scale < SMALL_PART else ""
    return ChosenOption("data.crop", value, f"images are {height:.0f}x{width:.0f} pixels at the median; {most}{part}")


def _median_size(folder: Folder) -> tuple[float, float]:
    sizes = []
    for i in range(0, len(folder), max(1, len(folder) // LOOKED_AT)):
        try:
            sizes.append(folder.size(i))
        except UserError:
            continue  # Bad files are for the check of the data to name.
    heights, widths = zip(*sizes or [(SIDE["cuda"], SIDE["cuda"])], strict=True)
    return median(heights), median(widths)


def _images(recipe: Recipe, crop: tuple[int, int], machine: Machine) -> tuple[int, str]:
    """Return the images of each dataset in a step, over all processes."""
    sets, least = len(recipe.data.sets), IMAGES[machine.kind]
    count, reason = math.ceil(least / sets), f"{least} images of all datasets at least"
    if machine.memory is not None:
        each = _activation_bytes(recipe) * crop[0] * crop[1] / (2 if machine.bf16 else 1)
        fitting = int(FREE * machine.memory / each) // sets
        if fitting < count:
            count, reason = fitting, f"an image takes {each / 2**30:.2f} GiB of the device's memory"
    return machine.processes * max(1, count), reason


def _activation_bytes(recipe: Recipe) -> float:
    """Measure how many bytes the network keeps for the backward pass, in fp32, for each pixel of an image."""
    encoder = PixelEncoder.build(**PixelEncoder.without_weights(recipe.model))
    with kept_bytes(encoder) as kept:
        features = encoder(torch.zeros(2, 3, PROBE, PROBE))
    assert features.embedding.requires_grad
    return kept() / (2 * PROBE * PROBE)


def _steps(folders: Sequence[Folder], per_step: Sequence[int | None], batch: int, machine: Machine) -> ChosenOption:
    fewest, most = STEPS[machine.kind]
    images = [n or batch * len(f) / sum(map(len, folders)) for n, f in zip(per_step, folders, strict=True)]
    wanted = max(EPOCHS * len(f) / n for f, n in zip(folders, images, strict=True))
    value = min(most, max(fewest, math.ceil(wanted)))
    largest = max(map(len, folders))
    reason = f"{EPOCHS} epochs of {largest} images are {wanted:.0f}; {fewest} to {most} on this device"
    return ChosenOption("train.steps", value, reason)
