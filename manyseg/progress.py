"""How far a long piece of work is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["WorkConsole", "progress"]

QUIET = 2.0
"""Seconds without a word: what is done by then needs none."""

EVERY = 10.0
"""Seconds between two lines."""


class WorkConsole(Console):
    """What long work writes to: where nobody reads it any more, that is as the end of the terminal (SIGHUP).

    So the step in hand is saved; what ignores that signal, as by nohup, goes on in silence.
    """

    def on_broken_pipe(self) -> None:
        """Say no more, and end as by SIGHUP where that is taken."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), (sys.stderr if self.stderr else sys.stdout).fileno())
        if hasattr(signal, "SIGHUP") and callable(signal.getsignal(signal.SIGHUP)):
            signal.raise_signal(signal.SIGHUP)


@contextmanager
def progress(what: str, total: int | None, *, shown: bool = True) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each of `total` items; stderr shows how many are done, and the time left.

    Where nobody knows how many there will be, `total` is None, and the time left is not said. Of several processes
    that do the same, one should have it `shown`.
    """
    if not shown:
        yield lambda: None
        return
    console = WorkConsole(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
        return
    start = time.monotonic()
    done, said = 0, start + QUIET - EVERY

    def step() -> None:
        nonlocal done, said
        done += 1
        now = time.monotonic()
        if now - said < EVERY or done == total:
            return
        said = now
        pace = (now - start) / done
        speed = f"{1 / max(pace, 1e-3):.3g} a second"
        if total is None:
            console.print(f"{what}: {done} done, {speed}")
        else:
            left = timedelta(seconds=round(pace * (total - done)))
            console.print(f"{what}: {done} of {total}, {speed}, {left} left")

    yield step
