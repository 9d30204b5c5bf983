"""SIGINT, SIGTERM and SIGHUP in long work: what is done by then is saved before they end it.

A first signal waits while the work holds signals, as in a step, and raises `Interrupted` elsewhere. A second one ends
the process at once. Workers that read images take no notice: their main process ends them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

from manyseg.errors import Interrupted

__all__ = ["STOP_SIGNALS", "StopSignals"]

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, a request of the system, and the end of the terminal."""

AGAIN = 1.0
"""Seconds within which several signals are one: launchers pass on what the whole group has got."""


class StopSignals:
    """A context manager that takes the signals, where it is entered in the main thread; one that is ignored stays so.

    `received` is the number of the signal that waits, or 0. Of several processes all but one are `quiet`.
    """

    def __init__(self) -> None:
        self.received = 0
        self.quiet = False
        self._at = 0.0
        self._held = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextmanager
    def held(self, on: bool = True) -> Iterator[None]:
        """Let a first signal wait in this block, or not (`on` false); raises Interrupted where none may wait longer."""
        before, self._held = self._held, on
        try:
            self._check()
            yield
        finally:
            self._held = before
        self._check()

    def _check(self) -> None:
        if self.received and not self._held:
            raise Interrupted(self.received)

    def _take(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received:
            if now - self._at >= AGAIN:
                _write("\x1b[?25h" if os.isatty(2) else "")  # A display may have hidden the cursor.
                os._exit(128 + number)
            return
        self.received, self._at = number, now
        self._check()
        if not self.quiet:
            name = signal.Signals(number).name
            _write(f"{name}: this step is finished and saved first; once more ends at once, without saving\n")


def _write(text: str) -> None:
    """Write to stderr as a signal handler may: the streams of Python could be in the middle of a line."""
    with suppress(OSError):  # Nobody may read it any more.
        os.write(2, text.encode())
