"""The processes that train one run together: which there are, and what they agree on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState

from manyseg.errors import UserError

__all__ = ["Agreement", "find_processes", "lost_another"]

MEETING = timedelta(minutes=5)
"""How long processes wait for each other at the start: one that ended before it came never comes."""

WORK = timedelta(hours=2)
"""How long processes wait for one that works alone, as the first does when it checks all images."""


def find_processes() -> Accelerator:
    """Return this process's device and place among the processes that torchrun or accelerate launched, if they did.

    Raises UserError where the others do not come within `MEETING`.
    """
    # Precision is torch's own autocast below: accelerate would fix it once a process, and patch `forward` for it.
    # A mixture may have no image of a dataset in a step, and a method may leave parameters out of some steps.
    # Told so, accelerate also takes several processes on CPUs for what they are.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True), InitProcessGroupKwargs(timeout=MEETING)]
    try:
        with _ended_at_once():
            accelerator = Accelerator(
                cpu=not torch.accelerator.is_available(), mixed_precision="no", kwargs_handlers=handlers
            )
    except RuntimeError as e:
        if not lost_another(e):
            raise
        AcceleratorState._reset_state(True)
        env = os.environ
        raise UserError(
            f"process {env.get('RANK')} of {env.get('WORLD_SIZE')} did not find the others at {env.get('MASTER_ADDR')}:"
            f"{env.get('MASTER_PORT')} within {MEETING.total_seconds():.0f} s; start all of them, by torchrun or "
            "accelerate launch, which end all when one has ended"
        ) from e
    if accelerator.num_processes > 1:
        _wait_for(WORK)
    return accelerator


def lost_another(error: RuntimeError) -> bool:
    """Say whether processes could not work together because one of them is not there."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


class Agreement:
    """Takes the largest of all processes' numbers; on the CPU, so that nothing waits for the device."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._alone: bool = accelerator.num_processes == 1
        # A group of its own where that of the processes waits for the device.
        own = not self._alone and dist.get_backend() != "gloo"
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=WORK)) if own else None

    def largest(self, value: int) -> int:
        """Return the largest value that any process gives; all have to call this."""
        if self._alone:
            return value
        largest = torch.tensor(value)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._group)
        return int(largest)


def _wait_for(longest: timedelta) -> None:
    """Let all that processes do together from now on take so long."""
    module: Any = dist
    # Newer releases of torch have it as a public function.
    change = getattr(module, "set_timeout", None) or module.distributed_c10d._set_pg_timeout
    change(longest)


@contextmanager
def _ended_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process as the system does: torch takes no notice while it waits for other processes."""
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before is not signal.default_int_handler or os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
