"""What training steps change, and what a checkpoint holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from manyseg.methods.base import Method
from manyseg.training.checkpoint import Checkpoint
from manyseg.training.optimizer import Average, build_optimizer, load_optimizer, optimizer_tensors, parameter_groups
from manyseg.training.options import TrainOptions
from manyseg.training.sharding import clip_gradients, distributed_like, gathered

__all__ = ["TrainingState"]


class TrainingState:
    """The weights, the optimiser's state, the scale of fp16 losses, and the average of the weights where one is kept.

    The method has to be on its device, with the parameters frozen that stay as they are.
    """

    def __init__(self, method: Method, options: TrainOptions, device: torch.device) -> None:
        self.method, self.clip = method, options.clip
        groups = parameter_groups(method, options)
        self._names = [name for group in groups for name in group["names"]]
        self._parameters = [p for group in groups for p in group["params"]]
        self._optimizer = build_optimizer(groups, options)
        self._scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self.average = Average(method, options.ema) if options.ema else None

    @property
    def learning_rate(self) -> float:
        """The largest of the parameters' learning rates."""
        return max((group["lr"] for group in self._optimizer.param_groups), default=0.0)

    def set_rate(self, factor: float) -> None:
        """Set every learning rate to `factor` of its peak."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to those of the parameters."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def update(self, step: int) -> None:
        """Change the weights by their gradients, which are cleared; `step` is counted from the start of the stage."""
        self._scaler.unscale_(self._optimizer)
        if self.clip:
            clip_gradients(self._parameters, self.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(step)

    def to_files(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        """Return the tensors of each file of a checkpoint by its name, and what is no tensor.

        All processes have to call this; where the trunk is divided, the first alone has the files.
        """
        files: dict[str, Mapping[str, Tensor]] = {
            "model": self.method.state_dict(),
            "optimizer": optimizer_tensors(self._optimizer, self._names),
        }
        if self.average:
            files["average"] = self.average.tensors
        files = {name: gathered(tensors) for name, tensors in files.items()}
        return files, {"scaler": self._scaler.state_dict()}

    def load(self, saved: Checkpoint) -> None:
        """Take over what `to_files` returned; raises UserError where it does not fit."""
        saved.load_into(self.method, lambda tensors: distributed_like(tensors, self.method.state_dict()))
        load_optimizer(self._optimizer, self._names, saved.tensors("optimizer"))
        self._scaler.load_state_dict(saved.state["scaler"])
        if self.average:
            self.average.load(saved.tensors("average"))
