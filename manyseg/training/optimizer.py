"""What a training step follows: the [train] table, learning rates, parameter groups, and the average of the weights."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from manyseg.methods.base import Method
from manyseg.training.metrics_log import Tracker

__all__ = [
    "Average",
    "TrainOptions",
    "build_optimizer",
    "load_optimizer",
    "optimizer_tensors",
    "parameter_groups",
    "rate",
    "seed_everything",
]


class TrainOptions(BaseModel):
    """The recipe's [train] table: how long, how fast, how exactly, and how often to report."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(ge=1, description="Updates of the weights, over all stages.")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="sgd is with Nesterov momentum.")
    lr: float = Field(default=1e-3, gt=0, description="Peak learning rate of new layers; SGD wants about 0.01.")
    backbone_lr_factor: float = Field(
        default=0.3, ge=0, description="The backbone's learning rate as a multiple of lr; 0 keeps its weights fixed."
    )
    weight_decay: float = Field(default=0.01, ge=0, description="Not on norms, biases and other vectors.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Of SGD; the first beta of AdamW.")
    warmup: int = Field(default=50, ge=0, description="Steps of linear rise to lr; at most half of all steps.")
    before: int = Field(default=0, ge=0, description="Steps of the same schedule that earlier stages took; lr goes on.")
    after: int = Field(default=0, ge=0, description="Steps of the same schedule that are left to later stages.")
    power: float = Field(default=0.9, ge=0, description="lr falls as (1 - step / steps) ^ power; 0 keeps it.")
    clip: float = Field(default=5.0, ge=0, description="Largest norm of the gradient of all weights; 0 sets no limit.")
    accumulate: int = Field(default=1, ge=1, description="Draws of the mixture that one update averages.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="Of activations; fp16 needs a GPU.")
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="Decay of an average of the weights, which is evaluated; 0 has none."
    )
    channels_last: bool = Field(default=True, description="Memory order of images; 2.2 times faster on a CPU.")
    compile: bool = Field(default=False, description="torch.compile the network; slow to start, needs a C compiler.")
    deterministic: bool = Field(default=False, description="Deterministic GPU kernels where there are any; slower.")
    log_every: int = Field(default=10, ge=1, description="Steps to a line of metrics.jsonl, a mean over them.")
    eval_every: int = Field(default=0, ge=0, description="Steps to an evaluation; 0 evaluates at the end only.")
    checkpoint_every: int = Field(default=500, ge=1, description="Steps to a checkpoint; there is one at the end too.")
    track: tuple[Tracker, ...] = Field(default=(), description='Copies of the log: "tensorboard", "wandb".')


def seed_everything(*key: int) -> None:
    """Seed torch (all devices), numpy and python from a key of whole numbers; equal keys, equal numbers."""
    a, b = np.random.SeedSequence(key).generate_state(2, np.uint64).tolist()
    torch.manual_seed(a)
    random.seed(b)
    np.random.seed(b % 2**32)


def rate(step: int, options: TrainOptions) -> float:
    """Return the factor on the peak learning rate in `step`, from 0: linear warm-up, then polynomial decay."""
    step, steps = options.before + step, options.before + options.steps + options.after
    warmup = min(options.warmup, steps // 2)
    if step < warmup:
        return (step + 1) / warmup
    return float((1 - (step - warmup) / (steps - warmup)) ** options.power)


def parameter_groups(method: Method, options: TrainOptions) -> list[dict[str, Any]]:
    """Part the trainable parameters by learning rate (backbone or not) and weight decay (vectors have none).

    Each group has the optimiser's keys, `peak` (its learning rate at factor 1) and `names` of its parameters.
    """
    backbone = {id(p) for p in method.pixel_encoder.backbone.parameters()}
    groups: dict[tuple[bool, bool, float], dict[str, Any]] = {}
    for name, p in method.named_parameters():
        if not p.requires_grad:
            continue
        inside, decays, factor = id(p) in backbone, p.ndim > 1, method.lr_factor(name)
        peak = options.lr * factor * (options.backbone_lr_factor if inside else 1.0)
        empty = {"params": [], "names": [], "peak": peak, "lr": peak, "weight_decay": options.weight_decay * decays}
        group = groups.setdefault((inside, decays, factor), empty)
        group["params"].append(p)
        group["names"].append(name)
    return list(groups.values())


def build_optimizer(groups: list[dict[str, Any]], options: TrainOptions) -> torch.optim.Optimizer:
    """Build AdamW or SGD over parameter groups."""
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, nesterov=options.momentum > 0)
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
        ordered = value if key == "step" else torch.empty_like(parameters[i]).copy_(value)
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
        for name, value in tensors.items():
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
