"""Frames of videos, in order and with their times: from files, cameras, pipes, and folders of pictures.

Axes: H W the size of the frames, the right way up.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from manyseg.data.files import DataError
from manyseg.data.window import size_text
from manyseg.errors import UserError
from manyseg.inference.options import Size
from manyseg.prediction.photo import read_photo

__all__ = ["PIPE", "Frame", "Video", "find_pyav", "is_video", "open_video"]

SUFFIXES = frozenset(
    {".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"}
)
"""The suffixes by which a file is known for a video."""

PIPE = "-"
"""The name of the standard input."""

CAMERA = re.compile(r"camera:(\d+)|/dev/video(\d+)")

DEVICES = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
"""By system: FFmpeg's name for cameras, and for one of them."""


class Frame(NamedTuple):
    """A picture, and when it is shown and how long, in units of the video's `time_base`; the first one is at 0."""

    image: UInt8[Tensor, "3 H W"]
    time: int
    duration: int


@dataclass(frozen=True)
class Video:
    """A video that is open: its frames can be taken once, and it is closed with their iterator.

    In place of a frame that cannot be decoded there is the error that names it. `rate` is the mean number of frames a
    second; `total` is how many there will be, or None where nobody knows. `aspect` is the width of a pixel over its
    height.
    """

    name: str
    size: Size
    time_base: Fraction
    rate: Fraction
    total: int | None
    aspect: Fraction
    frames: Iterator[Frame | DataError]


def is_video(source: str | Path, sequence: float | None = None) -> bool:
    """Say whether a source is a file of a video by its suffix, `-`, a camera, or with `sequence` a folder."""
    text, path = str(source), Path(source)
    return (
        text == PIPE
        or CAMERA.fullmatch(text) is not None
        or path.suffix.lower() in SUFFIXES
        or (sequence is not None and path.is_dir())
    )


def find_pyav(what: str) -> Any:
    """Return the package that reads and writes videos; raises UserError where it is not installed."""
    try:
        import av
    except ImportError:
        raise UserError(f'{what}: videos need PyAV; pip install "manyseg[video]"') from None
    # Damage is told by our errors, with the file and the time.
    av.logging.set_level(None)
    return av


def open_video(source: str | Path, pictures: Sequence[Path] = (), rate: float | None = None) -> Video:
    """Open a file, `camera:0`, `/dev/video0`, or `-` for the standard input; or `pictures` as a video of this `rate`.

    Frames are turned as the file's rotation says. Raises UserError if there is no video, or none of its frames can be
    read.
    """
    if rate is not None:
        return _Pictures(source, pictures, rate).open()
    return _Decoded(source).open()


class _Pictures:
    """Pictures of one size, so many a second."""

    def __init__(self, source: str | Path, pictures: Sequence[Path], rate: float) -> None:
        self.source, self.pictures, self.rate = source, pictures, Fraction(str(rate))
        self.size: Size | None = None

    def open(self) -> Video:
        first, before, rest = _first(self._frames(), self.source)
        assert self.size is not None
        return Video(
            Path(self.source).resolve().name, self.size, 1 / self.rate, self.rate, len(self.pictures), Fraction(1),
            chain(before, [first], rest),
        )  # fmt: skip

    def _frames(self) -> Iterator[Frame | DataError]:
        for number, path in enumerate(self.pictures):
            try:
                image, size = read_photo(path, lambda native: native)
            except DataError as e:
                yield e
                continue
            self.size = self.size or size
            if size == self.size:
                yield Frame(image, number, 1)
            else:
                what = f"{size_text(size)}, but the frames before are {size_text(self.size)}"
                yield DataError(path, what, "give frames of one size")


class _Decoded:
    """A video that FFmpeg reads."""

    def __init__(self, source: str | Path) -> None:
        self.av, self.source = find_pyav(str(source)), source
        self.name = "stdin" if str(source) == PIPE else Path(str(source).replace(":", "")).stem
        self.container = self._opened()
        if not self.container.streams.video:
            self.container.close()
            raise UserError(f"{source}: there is no video in this file; check the path")
        self.stream = self.container.streams.video[0]
        self.rate = Fraction(self.stream.average_rate or self.stream.guessed_rate or 25)
        self.time_base = Fraction(self.stream.time_base or 1 / self.rate)
        self.turns = 0

    def open(self) -> Video:
        first, before, rest = _first(self._frames(), self.source)
        aspect = Fraction(self.stream.sample_aspect_ratio or 1)
        return Video(
            self.name,
            (first.image.shape[1], first.image.shape[2]),
            self.time_base,
            self.rate,
            self._total(),
            1 / aspect if self.turns % 2 else aspect,
            chain(before, [first], rest),
        )

    def _opened(self) -> Any:
        text = str(self.source)
        camera = CAMERA.fullmatch(text)
        try:
            if camera is None:
                return self.av.open("pipe:0" if text == PIPE else text)
            if sys.platform not in DEVICES:
                raise UserError(f"{text}: cameras are read on Linux and macOS; here, send their video through a pipe")
            kind, name = DEVICES[sys.platform]
            return self.av.open(name.format(camera[1] or camera[2]), format=kind)
        except (self.av.FFmpegError, OSError) as e:
            reason = getattr(e, "strerror", None) or str(e)
            raise UserError(f"{text}: no video can be read ({reason}); {self._advice()}") from None

    def _advice(self) -> str:
        if str(self.source) == PIPE:
            return "send Matroska, MPEG-TS, or an MP4 whose index comes first (ffmpeg -movflags +faststart)"
        if CAMERA.fullmatch(str(self.source)):
            return "check that the camera is there and no other program uses it"
        return "check the path, or fetch the file again"

    def _total(self) -> int | None:
        if self.stream.frames:
            return int(self.stream.frames)
        if self.stream.duration:
            seconds = float(self.stream.duration * self.time_base)
        elif self.container.duration:
            seconds = float(self.container.duration / self.av.time_base)
        else:
            return None
        return round(seconds * float(self.rate))

    def _frames(self) -> Iterator[Frame | DataError]:
        """Yield the frames with times that increase, whatever the file says."""
        step = max(1, round(1 / (self.rate * self.time_base)))
        start, last, size = None, -step, None
        with closing(self.container):
            for found in self._pictures():
                if isinstance(found, DataError):
                    yield found
                    continue
                if start is None:
                    start = found.pts or 0
                # A file without times, or with times that go back, as after a cut.
                time = last + step if found.pts is None else max(found.pts - start, last + 1)
                size = size or (found.width, found.height)
                pixels = found.to_ndarray(format="rgb24", width=size[0], height=size[1])
                self.turns = round(found.rotation / 90) % 4
                image = np.ascontiguousarray(np.rot90(pixels, self.turns).transpose(2, 0, 1))
                yield Frame(torch.from_numpy(image), time, found.duration or step)
                last = time

    def _pictures(self) -> Iterator[Any]:
        """Yield what the decoder gives, and an error for everything that it cannot decode or had to invent."""
        packets, seconds = self.container.demux(self.stream), 0.0
        while True:
            try:
                packet = next(packets, None)
            except self.av.FFmpegError as e:
                yield self._damage(seconds, f"the file cannot be read on ({e.strerror})")
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except self.av.FFmpegError as e:
                if packet.pts is not None:
                    seconds = float(packet.pts * self.time_base)
                yield self._damage(seconds, f"a frame cannot be decoded ({e.strerror})")
                continue
            for frame in frames:
                seconds = seconds if frame.time is None else frame.time
                yield self._damage(seconds, "a frame is damaged") if frame.is_corrupt else frame

    def _damage(self, seconds: float, what: str) -> DataError:
        return DataError(str(self.source), what, self._advice(), place=f"{seconds:.2f} s")


def _first(
    frames: Iterator[Frame | DataError], source: str | Path
) -> tuple[Frame, list[DataError], Iterator[Frame | DataError]]:
    """Return the first frame that can be read, the errors before it, and the frames after it."""
    errors: list[DataError] = []
    for found in frames:
        if isinstance(found, Frame):
            return found, errors, frames
        errors.append(found)
    raise errors[0] if errors else UserError(f"{source}: the video has no frame; check the file")
