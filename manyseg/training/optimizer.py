"""What a training step follows: learning rates, parameter groups, and the average of the weights."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from manyseg.methods.base import Method
from manyseg.training.options import TrainOptions
from manyseg.training.sharding import distributed_like

__all__ = [
    "Average",
    "build_optimizer",
    "load_optimizer",
    "optimizer_tensors",
    "parameter_groups",
    "rate",
    "seed_everything",
]


def seed_everything(*key: int) -> None:
    """Seed torch (all devices), numpy and python from a key of whole numbers; equal keys, equal numbers."""
    a, b = np.random.SeedSequence(key).generate_state(2, np.uint64).tolist()
    torch.manual_seed(a)
    random.seed(b)
    np.random.seed(b % 2**32)


def rate(step: int, options: TrainOptions) -> float:
    """Return the factor on the peak learning rate in `step`, from 0: linear warm-up, polynomial decay, and drops."""
    step, steps = options.before + step, options.before + options.steps + options.after
    warmup = min(options.warmup, steps // 2)
    if step < warmup:
        return (step + 1) / warmup
    drops = sum(step >= part * steps for part in options.drops)
    return float((1 - (step - warmup) / (steps - warmup)) ** options.power * options.drop_factor**drops)


def parameter_groups(method: Method, options: TrainOptions) -> list[dict[str, Any]]:
    """Part the trainable parameters by learning rate (new or the trunk's) and weight decay (vectors have none).

    Each group has the optimiser's keys, `peak` (its learning rate at factor 1) and `names` of its parameters.
    """
    trunk = _trunk_factors(method, options)
    groups: dict[tuple[float | None, bool, float, bool], dict[str, Any]] = {}
    for name, p in method.named_parameters():
        if not p.requires_grad:
            continue
        inside, decays, factor = trunk.get(id(p)), p.ndim > 1, method.lr_factor(name)
        peak = options.lr * factor * (1.0 if inside is None else inside)
        empty = {"params": [], "names": [], "peak": peak, "lr": peak, "weight_decay": options.weight_decay * decays}
        # Whole and divided parameters cannot be updated by one kernel.
        group = groups.setdefault((inside, decays, factor, isinstance(p, DTensor)), empty)
        group["params"].append(p)
        group["names"].append(name)
    return list(groups.values())


def _trunk_factors(method: Method, options: TrainOptions) -> dict[int, float]:
    """Return the factor on the learning rate of every parameter of the trunk, by its id.

    Layer-wise decay as in BEiT (Bao et al. 2022): new layers have the factor 1, the last layer `layer_decay`, the layer
    before it `layer_decay` squared, and so on.
    """
    backbone = method.pixel_encoder.backbone
    factor, trunk = options.backbone_lr_factor, backbone.trunk_parameters()
    if options.layer_decay == 1:
        return {id(p): factor for p in trunk.values()}
    numbers = backbone.layer_numbers()
    count = max(numbers.values()) + 1
    return {id(p): factor * options.layer_decay ** (count - numbers[name]) for name, p in trunk.items()}


def build_optimizer(groups: list[dict[str, Any]], options: TrainOptions) -> torch.optim.Optimizer:
    """Build AdamW or SGD over parameter groups."""
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, nesterov=options.nesterov and options.momentum > 0)
    # Fused: one kernel, and no wait for the device where fp16 skips a step.
    fused = all(p.is_cuda for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, betas=(options.momentum, 0.999), fused=fused or None)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the optimiser's state as `<parameter>/<key>`; `names` are the parameters' in the order of its groups."""
    state = optimizer.state_dict()["state"]
    return {
        f"{names[i]}/{key}": torch.as_tensor(value)
        for i, entry in state.items()
        for key, value in entry.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Load what `optimizer_tensors` returned; learning rates and decay stay those of the optimiser."""
    position = {name: i for i, name in enumerate(names)}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        name, _, key = full.rpartition("/")
        i = position[name]
        # In the parameter's own memory order: another order could round sums in another way.
        if key == "step":
            ordered = value
        else:
            value = distributed_like({key: value}, {key: parameters[i]})[key]
            ordered = torch.empty_like(parameters[i]).copy_(value)
        state.setdefault(i, {})[key] = ordered
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Average:
    """An exponential moving average of a module's weights and floating-point buffers; other buffers are the latest."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.tensors = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`; early on the decay is (1 + step) / (10 + step), to forget the start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, 1 - decay)
            else:
                self.tensors[name].copy_(value)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a saved average."""
        for name, value in distributed_like(tensors, self.tensors).items():
            self.tensors[name].copy_(value)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Give the module the average for a while."""
        own = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.module.load_state_dict(self.tensors)
        try:
            yield
        finally:
            self.module.load_state_dict(own)
