"""Batches that pass a network beside each other: on a CPU about as many as there are threads, on a GPU one.

Threads that share the layers of one small image mostly wait for each other; threads that compute an image each do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Condition
from types import TracebackType
from typing import ParamSpec, TypeVar

import torch

__all__ = ["Passes"]

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 8
"""Batches at once, at most: more would wait for the interpreter's lock."""

BESIDE = 1 << 20
"""Pixels for each batch that may be computed at once: it bounds memory, and larger images are computed alone."""


class Passes:
    """A context manager that computes batches in threads, and divides torch's threads between them.

    A batch that has more than its part of the pixels has more of the threads. `busy` are the seconds in which at least
    one batch was computed. Where the block fails or a signal ends it, what has not begun is left.
    """

    def __init__(self, device: torch.device) -> None:
        self._before = torch.get_num_threads()
        self._threads = self._before if device.type == "cpu" else 1
        self._most = min(AT_ONCE, self._threads)
        self._change = Condition()
        self._pixels: list[int] = []
        self._first = True
        self._since = 0.0
        self.busy = 0.0

    def __enter__(self) -> Passes:
        if self._threads > 1:
            # Also for threads that begin from now on, such as those that read images.
            torch.set_num_threads(self._threads // self._most)
        self._pool = ThreadPoolExecutor(self._most)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if self._threads > 1:
            torch.set_num_threads(self._before)

    def submit(self, pixels: int, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> Future[T]:
        """Compute `function` of a batch of so many pixels, as soon as there is room for it; wait until it begins."""
        with self._change:
            self._change.wait_for(lambda: self._room(pixels))
            if not self._pixels:
                self._since = time.monotonic()
            self._pixels.append(pixels)
        future = self._pool.submit(self._run, pixels, partial(function, *arguments, **options))
        if self._first:
            # It fills what a method keeps for the next ones, which only read it.
            future.exception()
            self._first = False
        return future

    def _room(self, pixels: int) -> bool:
        together = sum(self._pixels) + pixels
        return not self._pixels or (len(self._pixels) < self._most and together <= self._most * BESIDE)

    def _run(self, pixels: int, function: Callable[[], T]) -> T:
        try:
            if self._threads > 1:
                part = max(self._threads // self._most, self._threads * pixels // (self._most * BESIDE))
                torch.set_num_threads(min(part, self._threads))
            return function()
        finally:
            with self._change:
                self._pixels.remove(pixels)
                if not self._pixels:
                    self.busy += time.monotonic() - self._since
                self._change.notify()
