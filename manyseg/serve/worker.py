"""One thread that owns the networks: images wait in a line, and those that fit are predicted together."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future
from threading import Condition, Thread
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from manyseg.inference.encoded_images import OutputSpace, images_at_once
from manyseg.inference.options import Size
from manyseg.prediction.model import Model
from manyseg.prediction.prediction import Prediction
from manyseg.serve.metrics import Metrics

__all__ = ["Task", "Worker"]

log = logging.getLogger(__name__)


class Task(NamedTuple):
    """An image as it is shown to the network, its native (height, width), and the label spaces to predict.

    Tasks of equal `labels` (the run's name and those of the spaces) have equal `model` and `outputs`.
    """

    model: Model
    labels: tuple[str, ...]
    outputs: tuple[OutputSpace, ...]
    shown: UInt8[Tensor, "3 _ _"]
    size: Size

    @property
    def kind(self) -> Hashable:
        """What tasks that go through the network together have in common."""
        return self.labels, self.shown.shape, self.size


class Worker:
    """Predicts tasks in the order in which they came, the first with all waiting ones of its kind that pay.

    Nothing waits for company: a task that is alone is predicted at once.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waiting: deque[tuple[Task, Future[list[Prediction]]]] = deque()
        self._change = Condition()
        self._stopped = False
        self._thread = Thread(target=self._work, name="manyseg-worker", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> Future[list[Prediction]]:
        """Put a task in the line; the result is a prediction for each of its label spaces."""
        future: Future[list[Prediction]] = Future()
        with self._change:
            if self._stopped:
                future.set_exception(RuntimeError("the server stops"))
                return future
            self._waiting.append((task, future))
            self._change.notify()
        return future

    def stop(self) -> None:
        """Finish what is in the line, and end the thread."""
        with self._change:
            self._stopped = True
            self._change.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            tasks, futures = zip(*batch, strict=True)
            first: Task = tasks[0]
            start = time.monotonic()
            try:
                shown = torch.stack([task.shown for task in tasks])
                found = first.model.predict_spaces(shown, first.size, first.outputs)
            except Exception as e:
                for future in futures:
                    future.set_exception(e)
                continue
            self._metrics.time("manyseg_predict_seconds", time.monotonic() - start)
            self._metrics.count("manyseg_batches_total")
            self._metrics.count("manyseg_images_total", len(tasks), run=first.labels[0])
            for future, predictions in zip(futures, found, strict=True):
                future.set_result(predictions)

    def _next(self) -> list[tuple[Task, Future[list[Prediction]]]]:
        """Wait for tasks and return those to predict together; none at the end. Cancelled ones are left out."""
        with self._change:
            while True:
                while not self._waiting and not self._stopped:
                    self._change.wait()
                if not self._waiting:
                    return []
                first = self._waiting[0][0]
                most = images_at_once(first.model.method.device, (first.shown.shape[-2], first.shown.shape[-1]))
                same = [one for one in self._waiting if one[0].kind == first.kind][:most]
                taken = {id(future) for _, future in same}
                self._waiting = deque(one for one in self._waiting if id(one[1]) not in taken)
                if batch := [one for one in same if one[1].set_running_or_notify_cancel()]:
                    return batch
