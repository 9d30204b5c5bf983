"""How many cores this process may use, and how its threads share them with others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

__all__ = ["READERS", "available_cores", "readers", "share_cores", "threads_for"]

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's limit: microseconds of the processor in a period, or `max`, and the period."""


@cache
def available_cores() -> int:
    """Return the number of cores that this process may use: of the machine's, those that a container leaves it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text(encoding="ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # No container, or one without a limit.
    return cores


READERS = min(8, available_cores())
"""Threads that read, decode and write files; decoders release the interpreter's lock."""


@contextmanager
def readers() -> Iterator[ThreadPoolExecutor]:
    """Yield `READERS` threads; where the block fails or a signal ends it, what they have not begun is left."""
    pool = ThreadPoolExecutor(READERS)
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


PIXELS_A_THREAD = 100_000
"""Pixels of a step for each thread that computes it on the CPU; with fewer, threads wait more than they win."""


def threads_for(pixels: int, most: int) -> int:
    """Return the number of threads, 1 to `most`, for a step of so many pixels."""
    return max(1, min(most, pixels // PIXELS_A_THREAD))


def share_cores() -> None:
    """Let the threads of numerical libraries use the available cores, and sleep while they wait for each other.

    By default the threads of OpenMP wait in a loop that occupies their cores. Beside any other busy process, such as
    the loader's workers, one waits for a thread that has no core, and training takes ten times as long. What the
    environment already sets (`OMP_NUM_THREADS`, `OMP_WAIT_POLICY`) is kept. To be called before torch is imported,
    which reads both once.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
