"""Videos to files: frames are read, segmented and written one after the other, however many there are.

Frames are read in a thread, and files are written in one thread each, while the network works. A few frames are held.

Axes: B frames, D classes, h w feature resolution.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Empty, Full, Queue
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from manyseg import atomic
from manyseg.data.files import DataError
from manyseg.errors import Interrupted, UserError
from manyseg.inference.encoded_images import OutputSpace, images_at_once
from manyseg.inference.resize import resize
from manyseg.labels import IGNORE
from manyseg.prediction.drawing import PixelValues
from manyseg.prediction.model import Labels, Model, Relate
from manyseg.prediction.predict import check_targets, list_images, unique_names
from manyseg.prediction.prediction import Prediction
from manyseg.prediction.summary import Summary, describe
from manyseg.prediction.video_outputs import VIDEO_OUTPUTS, VideoOutput
from manyseg.prediction.video_source import PIPE, Frame, Video, is_video, open_video
from manyseg.progress import progress
from manyseg.stop_signals import StopSignals

__all__ = ["Smoothing", "predict_videos"]

WAITING = 8
"""Frames that are read in advance, and frames that are still to be written."""

log = logging.getLogger(__name__)


def predict_videos(
    model: Model,
    sources: Sequence[str | Path],
    labels: Labels = "unified",
    out: str | Path = "predictions",
    *,
    kinds: Sequence[str] = ("masks", "overlays"),
    values: Mapping[str, PixelValues] = MappingProxyType({}),
    relate: Relate = "names",
    sequence: float | None = None,
    smooth: float = 0.0,
    source: str = "",
) -> Summary:
    """Segment videos and write, to `out`, a video of each of the `kinds` (of `VIDEO_OUTPUTS`), and `labels.json`.

    A source is a file, a camera (`camera:0`, `/dev/video0`), `-` for the standard input, or with `sequence` a folder
    whose pictures are the frames, so many a second. Frames keep their times. `smooth` are the seconds over which class
    probabilities are averaged (`Smoothing`); 0 leaves frames to themselves. All else is as in `predict_paths`.

    Raises UserError for sources or kinds that do not fit, and at the end for frames that could not be decoded, each of
    which was logged, the others being done. A signal ends the work: the frames done so far are in files that can be
    played, and Interrupted says so.
    """
    start, out = time.monotonic(), Path(out)
    if alien := [s for s in sources if not is_video(s, sequence)]:
        raise UserError(f"{alien[0]}: no video; segment images and videos in separate calls")
    if unknown := [kind for kind in kinds if kind not in VIDEO_OUTPUTS]:
        raise UserError(f"'{unknown[0]}' is not written of videos; choose from: {', '.join(VIDEO_OUTPUTS)}")
    if not 0 <= smooth < math.inf or (sequence is not None and not 0 < sequence <= 1000):
        raise UserError("--smooth is a number of seconds, and --sequence one of frames a second, at most 1000")
    output = model.output(labels, relate)
    hierarchy = model.method.hierarchy
    if smooth and hierarchy is not None and output.space == hierarchy.space:
        raise UserError("the classes of a hierarchy have no scores of one softmax to average; omit --smooth")
    used = {kind: values.get(kind) or PixelValues.positions(output.space) for kind in kinds}
    work = _Work(model, output, smooth)
    atomic.check_target(out / "labels.json")
    videos: list[Path] = []
    for path, name in _named(sources):
        pictures = [file for file, _ in list_images([path], out)] if path.is_dir() else []
        video = open_video(path, pictures, sequence if pictures else None)
        targets = {kind: VIDEO_OUTPUTS[kind].path(out, name or video.name) for kind in kinds}
        check_targets([*pictures, *([path] if path.is_file() else [])], targets.values())
        atomic.write(out / "labels.json", describe(output, used[kinds[0]], kinds, source, model))
        before = work.done
        try:
            _segment(work, video, targets, used)
        except Interrupted as e:
            places = ", ".join(map(str, targets.values()))
            raise Interrupted(e.signal, f"{e}; {work.done - before} frames of {path} are in {places}") from None
        videos.append(targets[kinds[0]])
    if work.failed:
        raise UserError(
            f"{len(work.failed)} of {work.done + len(work.failed)} frames could not be read, the first: "
            f"{work.failed[0]}; the others are in {out}"
        )
    seconds = time.monotonic() - start
    return Summary(
        videos, out, tuple(kinds), "frames", output.space, work.done, 0, work.pixels, work.frames, seconds,
        work.busy / seconds,
    )  # fmt: skip


def _named(sources: Sequence[str | Path]) -> list[tuple[Path, str]]:
    """Name the files of every source; one source alone is named by what it is."""
    paths = [Path(s) for s in sources]
    names = [Path("stdin" if str(p) == PIPE else p.name.replace(":", "")) for p in paths]
    return list(zip(paths, unique_names(list(zip(paths, names, strict=True))), strict=True))


class Smoothing:
    """Averages class probabilities over time, by an exponential moving average at feature resolution.

    A frame's average is a * (that of the frame before) + (1 - a) * its own probabilities, with a = exp(-t / `seconds`)
    after t seconds: whatever the frame rate, the past has lost 63 % of its weight after `seconds`. Motion is not
    followed: what moves fast leaves a trace.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.average: Tensor | None = None
        self.time = 0.0

    def __call__(self, scores: Float[Tensor, "B D h w"], times: Sequence[float]) -> Float[Tensor, "B D h w"]:
        """Return the averages for consecutive frames at `times` in seconds; -inf where every class was excluded."""
        out = []
        for now, frame in zip(times, scores.softmax(1).nan_to_num(0.0), strict=True):
            if self.average is None or self.average.shape != frame.shape:
                self.average = frame
            else:
                self.average = torch.lerp(frame, self.average, math.exp(-(now - self.time) / self.seconds))
            self.time = now
            out.append(torch.where(self.average.sum(0, keepdim=True) > 0, self.average, -math.inf))
        return torch.stack(out)


class _Work:
    """Segments frames, and counts what came out; the fields have the meaning of `Pipeline`'s."""

    def __init__(self, model: Model, output: OutputSpace, smooth: float) -> None:
        self.model, self.output, self.smooth = model, output, smooth
        self.options = model.options.of(output.space.name)
        self.pixels = np.zeros(len(output.space), np.int64)
        self.frames = np.zeros(len(output.space), np.int64)
        self.failed: list[DataError] = []
        self.done, self.busy = 0, 0.0

    def segmented(self, video: Video, found: Iterator[Frame | DataError]) -> Iterator[tuple[Frame, Prediction] | None]:
        """Yield frames with their label maps, and None for each that could not be read."""
        smoothing = Smoothing(self.smooth) if self.smooth else None
        most = images_at_once(self.model.method.device, self.options.input_size(video.size))
        batch: list[Frame] = []
        for frame in found:
            if isinstance(frame, DataError):
                log.warning("%s", frame)
                self.failed.append(frame)
                yield None
                continue
            batch.append(frame)
            if len(batch) == most:
                yield from self._predicted(video, batch, smoothing)
                batch = []
        if batch:
            yield from self._predicted(video, batch, smoothing)

    def _predicted(
        self, video: Video, batch: Sequence[Frame], smoothing: Smoothing | None
    ) -> Iterator[tuple[Frame, Prediction]]:
        start = time.monotonic()
        shown = resize(torch.stack([f.image for f in batch]), self.options.input_size(video.size))
        times = [float(f.time * video.time_base) for f in batch]
        found = self.model.predict_batch(
            shown, video.size, self.output, change=None if smoothing is None else lambda s: smoothing(s, times)
        )
        self.busy += time.monotonic() - start
        for frame, one in zip(batch, found, strict=True):
            counts = np.bincount(one.labels[one.labels != IGNORE], minlength=len(self.pixels))
            self.pixels += counts
            self.frames += counts > 0
            yield frame, one


def _segment(work: _Work, video: Video, targets: Mapping[str, Path], values: Mapping[str, PixelValues]) -> None:
    """Write the files of a video; whatever ends the work early, they hold the frames that were done."""
    ended: Exception | None = None
    # A signal ends the work at once, but not the writing of what was done.
    with StopSignals() as signals, signals.held(), ExitStack() as stack:
        files = {kind: stack.enter_context(atomic.writing(path)) for kind, path in targets.items()}
        outputs = [VIDEO_OUTPUTS[k](file, video, work.output.space, values[k]) for k, file in files.items()]
        pools = [ThreadPoolExecutor(1) for _ in outputs]
        pending: deque[list[Future[None]]] = deque()
        try:
            with signals.held(False), progress(f"predicting {video.name}", video.total) as step:
                for found in work.segmented(video, _ahead(video.frames)):
                    step()
                    if found is None:
                        continue
                    pending.append([p.submit(o.add, *found) for p, o in zip(pools, outputs, strict=True)])
                    work.done += 1
                    while len(pending) > WAITING:
                        _wait(pending.popleft())
                while pending:
                    _wait(pending.popleft())
        except Interrupted:
            pass  # Raised again where signals are held no longer.
        except Exception as e:
            ended = e
        for pool in pools:
            pool.shutdown()
        _close(outputs, ended)
    if isinstance(ended, OSError):
        raise atomic.cannot_write(next(iter(targets.values())), ended) from ended
    if ended is not None:
        raise ended


def _wait(writes: Sequence[Future[None]]) -> None:
    for write in writes:
        write.result()


def _close(outputs: Sequence[VideoOutput], ended: Exception | None) -> None:
    for output in outputs:
        # A disk that was full before is full now; the frames before are in the file.
        with suppress(*([OSError] if isinstance(ended, OSError) else [])):
            output.close()


def _ahead(frames: Iterator[Frame | DataError]) -> Iterator[Frame | DataError]:
    """Yield what a thread takes from `frames` in advance.

    The thread is a daemon, and the only one that uses the source: a camera or pipe that gives nothing holds up nobody.
    """
    ready: Queue[Frame | DataError | BaseException | None] = Queue(WAITING)
    stopped = threading.Event()

    def put(found: Frame | DataError | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(Full):
                ready.put(found, timeout=0.1)
                return

    def read() -> None:
        try:
            for found in frames:
                put(found)
                if stopped.is_set():
                    return
            put(None)
        except Exception as e:
            put(e)

    threading.Thread(target=read, daemon=True).start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException) and not isinstance(found, DataError):
                raise found
            yield found
    finally:
        stopped.set()
        with suppress(Empty):
            while True:
                ready.get_nowait()
