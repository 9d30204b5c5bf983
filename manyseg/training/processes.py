"""The processes that train one run together: which there are, and what they agree on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import register_rendezvous_handler, rendezvous
from torch.nn.parallel import DistributedDataParallel

from manyseg.errors import UserError
from manyseg.stop_signals import STOP_SIGNALS

__all__ = ["Agreement", "find_processes", "lost_another"]

MEETING = timedelta(minutes=5)
"""How long processes wait for each other at the start: one that ended before it came never comes."""

SCHEME = "manyseg"
"""Of the address at which processes meet; see `_meet`."""

WORK = timedelta(hours=2)
"""How long processes that have met wait for one that works alone, as the first does when it checks all images."""


def find_processes() -> Accelerator:
    """Return this process's device and place among the processes that torchrun or accelerate launched, if they did.

    Raises UserError where the others do not come within `MEETING`.
    """
    # Precision is torch's own autocast below: accelerate would fix it once a process, and patch `forward` for it.
    # A mixture may have no image of a dataset in a step, and a method may leave parameters out of some steps.
    # Told so, accelerate also takes several processes on CPUs for what they are.
    _register()
    handlers = [
        DistributedDataParallelKwargs(find_unused_parameters=True),
        InitProcessGroupKwargs(init_method=f"{SCHEME}://", timeout=WORK),
    ]
    try:
        with _ended_at_once():
            accelerator = Accelerator(
                cpu=not torch.accelerator.is_available(), mixed_precision="no", kwargs_handlers=handlers
            )
            if accelerator.num_processes > 1:
                _use_up_warning(accelerator.device)
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


@cache
def _register() -> None:
    register: Any = register_rendezvous_handler
    register(SCHEME, _meet)


def _meet(url: str, timeout: timedelta) -> Iterator[tuple[Store, int, int]]:
    """Meet as the environment says, within `MEETING` and apart from earlier attempts; `timeout` is for what follows.

    torchrun may give processes that it starts again the store of those before them. What these left there would be
    taken for the addresses of the present ones, which then wait for them for ever (torch 2.14).
    """
    store, rank, processes = next(rendezvous("env://", timeout=MEETING))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = PrefixStore(f"attempt {attempt}", store)
    own.set(f"here {rank}", "")
    own.wait([f"here {r}" for r in range(processes)], MEETING)
    yield own, rank, processes


def _use_up_warning(device: torch.device) -> None:
    """Let DDP warn that no parameter is unused, which it does once a process, where nobody reads it.

    It is no advice for us, as some other step may leave one out; and torch writes it past Python's filters of warnings.
    """
    sys.stderr.flush()
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        DistributedDataParallel(nn.Linear(1, 1).to(device), find_unused_parameters=True)(torch.zeros(1, 1).to(device))
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)


@contextmanager
def _ended_at_once() -> Iterator[None]:
    """Let signals end the process as the system does: torch takes no notice while it waits for other processes."""
    main = threading.current_thread() is threading.main_thread()
    if not main or os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    taken = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in taken:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
