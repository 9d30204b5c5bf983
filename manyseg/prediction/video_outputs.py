"""Files of videos: overlays with a legend, and label maps without loss; ended early, they can be played.

Axes: H W the size of the frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from jaxtyping import Shaped

from manyseg.labels import LabelSpace
from manyseg.prediction.drawing import FrameOverlays, PixelValues
from manyseg.prediction.prediction import Prediction
from manyseg.prediction.video_source import Frame, Video, find_pyav

__all__ = ["VIDEO_OUTPUTS", "MaskVideo", "OverlayVideo", "VideoOutput"]

BT709 = 1
"""FFmpeg's number of the colours of HD video, which players assume for files that do not say."""


class VideoOutput(ABC):
    """One kind of file for a video, to which its frames are added in their order.

    Frames have the times that they have in the source, and nothing is encoded from later frames: a file is complete up
    to the last one that was added.
    """

    folder: ClassVar[str]
    suffix: ClassVar[str]
    format: ClassVar[str]
    codec: ClassVar[str]
    options: ClassVar[dict[str, str]] = {}
    """Of the format, FFmpeg's."""
    quality: ClassVar[dict[str, str]] = {}
    """Options of the codec, FFmpeg's."""

    def __init__(self, file: BinaryIO, video: Video, space: LabelSpace, values: PixelValues) -> None:
        self.video, self.space, self.values = video, space, values
        self.av = find_pyav(video.name)
        self.container = self.av.open(file, "w", format=self.format, options=self.options)
        self.stream: Any = None
        self.durations: dict[int, int] = {}

    @classmethod
    def path(cls, out: Path, name: str) -> Path:
        """Return the file of a video."""
        return out / cls.folder / f"{name}{cls.suffix}"

    @abstractmethod
    def add(self, frame: Frame, found: Prediction) -> None:
        """Write a frame."""

    def close(self) -> None:
        """Write what is left, and the index."""
        if self.stream is not None:
            self._mux(None)
        self.container.close()

    def _start(self, height: int, width: int, pixels: str) -> None:
        """Begin the stream of frames of one size and FFmpeg's format of `pixels`."""
        video = self.video
        self.stream = self.container.add_stream(self.codec, rate=video.rate, options=self.quality)
        self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, pixels
        context = self.stream.codec_context
        context.time_base, context.sample_aspect_ratio = video.time_base, video.aspect
        # A frame can be shown as soon as it is written, and a file that ends early is complete up to its last second.
        context.max_b_frames, context.gop_size = 0, max(1, round(video.rate))

    def _write(self, pixels: Shaped[np.ndarray, "H W *_"], kind: str, frame: Frame) -> None:
        picture = self.av.VideoFrame.from_ndarray(pixels, kind)
        if kind == "rgb24":
            picture = picture.reformat(format=self.stream.pix_fmt, dst_colorspace=BT709)
            picture.colorspace = BT709
        picture.pts, picture.time_base = frame.time, self.video.time_base
        self.durations[frame.time] = frame.duration
        self._mux(picture)

    def _mux(self, picture: Any) -> None:
        for packet in self.stream.encode(picture):
            packet.duration = self.durations.pop(packet.pts, packet.duration)
            self.container.mux(packet)


class OverlayVideo(VideoOutput):
    """`overlays/<name>.mp4`: H.264, the frames with their label maps over them and a legend.

    While it is written it is a fragmented MP4, which can be played up to its last second even if the process is killed.
    """

    folder, suffix, format, codec = "overlays", ".mp4", "mp4", "libx264"
    options: ClassVar[dict[str, str]] = {"movflags": "hybrid_fragmented"}
    quality: ClassVar[dict[str, str]] = {"preset": "veryfast", "crf": "20"}

    def __init__(self, file: BinaryIO, video: Video, space: LabelSpace, values: PixelValues) -> None:
        super().__init__(file, video, space, values)
        self.overlays = FrameOverlays(space, video.size)
        self._start(*self.overlays.size_out, "yuv420p")
        context = self.stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709

    def add(self, frame: Frame, found: Prediction) -> None:
        """Draw and write a frame."""
        self._write(np.asarray(self.overlays.draw(frame.image, found.labels)), "rgb24", frame)


class MaskVideo(VideoOutput):
    """`masks/<name>.mkv`: FFV1, grey frames of the classes' values, without loss; 16 bits where 8 do not hold them.

    Matroska's times are rounded to milliseconds.
    """

    folder, suffix, format, codec = "masks", ".mkv", "matroska", "ffv1"

    def __init__(self, file: BinaryIO, video: Video, space: LabelSpace, values: PixelValues) -> None:
        super().__init__(file, video, space, values)
        # IGNORE is -1, the last one.
        self.lookup = np.array([*values.classes, values.ignored], values.dtype)
        self.kind = "gray" if values.dtype is np.uint8 else "gray16le"
        self._start(*video.size, self.kind)

    def add(self, frame: Frame, found: Prediction) -> None:
        """Write a label map."""
        self._write(self.lookup[found.labels], self.kind, frame)


VIDEO_OUTPUTS: dict[str, type[VideoOutput]] = {"masks": MaskVideo, "overlays": OverlayVideo}
"""The kinds of files of a video, by the names that they have for images."""
