"""The processes that train one run together: which there are, and what they agree on."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs

__all__ = ["Agreement", "find_processes"]


def find_processes() -> Accelerator:
    """Return this process's device and place among the processes that torchrun or accelerate launched, if they did."""
    # Precision is torch's own autocast below: accelerate would fix it once a process, and patch `forward` for it.
    # A mixture may have no image of a dataset in a step, and a method may leave parameters out of some steps.
    # Told so, accelerate also takes several processes on CPUs for what they are.
    return Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision="no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


class Agreement:
    """Takes the largest of all processes' numbers; on the CPU, so that nothing waits for the device."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._alone: bool = accelerator.num_processes == 1
        # A group of its own where that of the processes waits for the device.
        own = not self._alone and dist.get_backend() != "gloo"
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if own else None

    def largest(self, value: int) -> int:
        """Return the largest value that any process gives; all have to call this."""
        if self._alone:
            return value
        largest = torch.tensor(value)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._group)
        return int(largest)
