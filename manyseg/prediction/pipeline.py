"""Images are read and files are written in threads while the network works on what was read before.

The network sees images of one size together, as many as pay on the device; small ones wait for others of their size.
Memory holds a few images, however many there are.

Axes: D classes, h w the size that is shown to the network.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from manyseg.cores import READERS, readers
from manyseg.data.files import DataError
from manyseg.inference.encoded_images import OutputSpace, images_at_once
from manyseg.inference.options import Size
from manyseg.labels import IGNORE
from manyseg.prediction.large_images import predict_large
from manyseg.prediction.model import Model
from manyseg.prediction.output import Output
from manyseg.prediction.passes import Passes
from manyseg.prediction.photo import Reading, read_photo
from manyseg.prediction.prediction import Prediction

__all__ = ["Job", "Pipeline"]

WAITING = 2 * READERS
"""Images that are read in advance, and batches of which files are still to be written."""

COMPANY = 32
"""Images that wait for others of their size at once, at most; only those wait of which several fit a batch."""

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """An image, the name of its files, and one file of each kind."""

    path: Path
    name: str
    targets: list[Path]


class _Shown(NamedTuple):
    """An image as it is shown to the network, and its native (height, width)."""

    image: UInt8[Tensor, "3 _ _"]
    size: Size


class _Written(NamedTuple):
    """What the outputs returned for an image, and the pixels of every class."""

    files: list[Any]
    pixels: Int[np.ndarray, " D"]


class Pipeline:
    """Reads, predicts and writes, and counts what came out.

    `failed` are the errors of images that could not be read, `written` what the outputs returned for each of the
    others, by the name of its job. `pixels` and `images` count, for every class, its pixels and the images in which it
    occurs; `busy` are the seconds in which the network worked on at least one of them.
    """

    def __init__(self, model: Model, output: OutputSpace, writers: Sequence[Output], reading: Reading) -> None:
        self.model, self.output, self.writers, self.reading = model, output, writers, reading
        self.options = model.options.of(output.space.name)
        self.scores = any(w.needs_scores for w in writers)
        self.segments = any(w.needs_segments for w in writers)
        self.failed: list[DataError] = []
        self.written: dict[str, list[Any]] = {}
        self.pixels = np.zeros(len(output.space), np.int64)
        self.images = np.zeros(len(output.space), np.int64)
        self.busy = 0.0

    def finished(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Do all jobs, and yield once for each; images that cannot be read are logged and left out."""
        pending: deque[tuple[list[Job], Future[list[Future[_Written]]]]] = deque()
        with Passes(self.model.method.device) as passes, readers() as reading, readers() as writing:
            for batch in self._batches(jobs, reading):
                if isinstance(batch, DataError):
                    log.warning("%s", batch)
                    self.failed.append(batch)
                    yield
                    continue
                height, width = self.options.input_size(batch[0][1].size)
                found = passes.submit(len(batch) * height * width, self._predict, batch, writing)
                pending.append(([job for job, _ in batch], found))
                while len(pending) > WAITING:
                    yield from self._ended(*pending.popleft())
            for begun, found in pending:
                yield from self._ended(begun, found)
        self.busy += passes.busy

    def _ended(self, jobs: Sequence[Job], found: Future[list[Future[_Written]]]) -> Iterator[None]:
        """Wait for the images of a batch, and yield once for each."""
        for job, write in zip(jobs, found.result(), strict=True):
            one = write.result()
            self.written[job.name] = one.files
            self.pixels += one.pixels
            self.images += one.pixels > 0
            yield

    def add_large(self, job: Job, kinds: Sequence[str]) -> None:
        """Do an image that is read by windows."""
        values = {kind: writer.values for kind, writer in zip(kinds, self.writers, strict=True)}
        targets = dict(zip(kinds, job.targets, strict=True))
        try:
            counts = predict_large(self.model, job.path, self.output, targets, values, self.reading)
        except DataError as e:
            log.warning("%s", e)
            self.failed.append(e)
            return
        self.pixels += counts.pixels
        self.images += counts.pixels > 0
        self.busy += counts.seconds

    def _batches(self, jobs: Sequence[Job], pool: ThreadPoolExecutor) -> Iterator[list[tuple[Job, _Shown]] | DataError]:
        """Yield images of one size, as many as pay on the device, or the error of an image."""
        waiting = iter(jobs)
        ahead: deque[tuple[Job, Future[_Shown | DataError]]] = deque()
        held: dict[Size, list[tuple[Job, _Shown]]] = {}
        while True:
            while len(ahead) < WAITING and (job := next(waiting, None)) is not None:
                ahead.append((job, pool.submit(self._read, job.path)))
            if not ahead:
                break
            job, reading = ahead.popleft()
            found = reading.result()
            if isinstance(found, DataError):
                yield found
                continue
            batch = held.setdefault(found.size, [])
            batch.append((job, found))
            if len(batch) >= images_at_once(self.model.method.device, self.options.input_size(found.size)):
                yield held.pop(found.size)
            elif sum(map(len, held.values())) > COMPANY:
                yield held.pop(next(iter(held)))
        yield from held.values()

    def _read(self, path: Path) -> _Shown | DataError:
        try:
            return _Shown(*read_photo(path, self.options.input_size, self.reading))
        except DataError as e:
            return e

    def _predict(self, batch: Sequence[tuple[Job, _Shown]], writing: ThreadPoolExecutor) -> list[Future[_Written]]:
        shown = torch.stack([one.image for _, one in batch])
        found = self.model.predict_batch(shown, batch[0][1].size, self.output, self.scores, self.segments)
        return [writing.submit(self._write, job, one) for (job, _), one in zip(batch, found, strict=True)]

    def _write(self, job: Job, found: Prediction) -> _Written:
        # The first kind comes last: where its file is there, all are.
        files = [writer.write(job.name, found) for writer in reversed(self.writers)]
        return _Written(files[::-1], np.bincount(found.labels[found.labels != IGNORE], minlength=len(self.pixels)))
