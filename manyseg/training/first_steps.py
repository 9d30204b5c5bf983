"""What the first steps of a stage show: the memory and the time of a step, and what to do where memory runs out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.training.checkpoint import ANEW
from manyseg.training.kept_tensors import kept_bytes

__all__ = ["FirstSteps", "memory_named"]

STEPS = 3
"""Steps after which their time is said; the first one is left out, in which libraries load and kernels are chosen."""

ADVICE = (
    "lower per_step of the sets (train.accumulate = 2 with half of it keeps the images of an update) or data.crop, or "
    f'set train.precision = "bf16" or model.checkpointing = true, {ANEW}'
)
"""What needs less memory, first what changes the training least."""


class FirstSteps:
    """Measures one step's activations and the time of the steps after it; a process that goes on measures anew."""

    def __init__(self, method: nn.Module, device: torch.device, unmeasured: bool) -> None:
        self._method, self._device = method, device
        # Hooks on what a compiled network keeps would compile it in another way; of a trunk that is divided they would
        # count weights.
        self._measured = unmeasured and device.type != "cuda"
        self._kept: int | None = None
        self._since, self._steps = 0.0, 0

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Measure what the first forward pass in this block keeps for the backward pass."""
        if self._measured:
            yield
            return
        self._measured = True
        if self._device.type == "cuda":
            before = torch.cuda.memory_allocated(self._device)
            yield
            self._kept = torch.cuda.memory_allocated(self._device) - before
        else:
            with kept_bytes(self._method) as kept:
                yield
                self._kept = kept()

    def stepped(self) -> None:
        """Count a step; after the first one the host waits for the device, this once."""
        self._steps += 1
        if self._steps == 1:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._since = time.perf_counter()

    def line(self) -> str:
        """Return what was measured, once, when there were enough steps; the device must have been waited for."""
        if not self._since or self._steps < STEPS:
            return ""
        seconds = (time.perf_counter() - self._since) / (self._steps - 1)
        self._since = 0.0
        parts = [f"a step takes {seconds:.2g} s"]
        if self._kept is not None:
            parts.append(f"its activations {self._kept / 2**20:.1f} MiB")
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            whole = torch.cuda.get_device_properties(self._device).total_memory
            parts.append(f"all together {peak / 2**30:.1f} of {whole / 2**30:.0f} GiB")
        return ", ".join(parts)


@contextmanager
def memory_named(step: int, batches: Sequence[Batch]) -> Iterator[None]:
    """Raise UserError where memory runs out in this block: what the step had, and what needs less."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        # On the CPU torch raises a plain RuntimeError.
        if not isinstance(e, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(e):
            raise
        device = batches[0].image.device
        where = "the GPU's memory" if device.type == "cuda" else "memory"
        images = ", ".join(
            f"{len(b.image)} of '{b.space.name}' ({b.image.shape[-1]}x{b.image.shape[-2]})" for b in batches
        )
        raise UserError(f"step {step}: {where} ran out with these images in this process: {images}; {ADVICE}") from e
