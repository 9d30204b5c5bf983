"""Where a training crop lies, and how image, labels, segments and boxes are cut to it.

Annotations are at native size, the image maybe smaller, as a JPEG can be decoded at a reduced scale. Only the crop's
own source pixels are resized.

Axes: H W pixels of the crop, h w of its part inside the image, h0 w0 of the source, N segments or boxes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from manyseg.data.annotation import Annotation, Boxes, Dense, Segments, Tags
from manyseg.data.window import Window
from manyseg.labels import IGNORE

__all__ = ["Crop", "Span", "flip"]

PROBES = 64
"""Labels that a share is estimated from along each axis; it is known to about 1 / 64."""

MEAN_COLOR = (124, 116, 104)
"""Colour of padding: the mean of ImageNet, near zero once normalised."""


class Span(NamedTuple):
    """One axis of a crop: pixels `lo` to `hi` of the decoded image become pixels `start` to `stop` of the crop.

    Both are whole numbers of pixels, so image, labels and boxes follow one and the same map; rounding changes the
    drawn zoom by less than a pixel of the source, and antialiasing does not see past the crop's edge.
    """

    lo: int
    hi: int
    start: int
    stop: int

    @classmethod
    def place(cls, decoded: int, scaled: int, crop: int, u: float) -> Span:
        """Place a crop at `u` (0 to 1) of the free way; an axis that is shorter than the crop is placed inside it."""
        free = math.floor(u * (abs(scaled - crop) + 1))
        if scaled <= crop:
            return cls(0, decoded, free, free + scaled)
        lo = min(round(free * decoded / scaled), decoded - 1)
        return cls(lo, max(lo + 1, round((free + crop) * decoded / scaled)), 0, crop)

    def sources(self, ratio: float, native: int) -> Int[Tensor, " n"]:
        """Return the native pixel under each pixel's centre; `ratio` is native by decoded size."""
        n = self.stop - self.start
        centres = self.lo + (torch.arange(n, dtype=torch.float64) + 0.5) * ((self.hi - self.lo) / n)
        return (centres * ratio).long().clamp_(max=native - 1)


class Crop(NamedTuple):
    """Which part of a decoded image becomes the crop; annotations are at `native` size, the image at `decoded`."""

    rows: Span
    cols: Span
    native: tuple[int, int]
    decoded: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def choose(
        cls,
        look: Callable[[Crop], Int[Tensor, "h w"] | None],
        native: tuple[int, int],
        decoded: tuple[int, int],
        scaled: tuple[int, int],
        size: tuple[int, int],
        max_share: float,
        places: Sequence[tuple[float, float]],
        wanted: int | None = None,
    ) -> Crop:
        """Choose the first place where no class has more than its share; failing that, the most varied one.

        Places where the class `wanted` is go before those where it is not. `look` returns some of a crop's labels, or
        None where pixels have none. `scaled` is the image's size after the random zoom, `places` are the candidates as
        numbers from 0 to 1.
        """
        found = []
        for u, v in places:
            rows = Span.place(decoded[0], scaled[0], size[0], u)
            cols = Span.place(decoded[1], scaled[1], size[1], v)
            crop = cls(rows, cols, native, decoded, size)
            if max_share == 1 and wanted is None:
                return crop
            labels = look(crop)
            if labels is None:
                return crop
            share, missing = _commonest(labels), wanted is not None and not bool((labels == wanted).any())
            if (share <= max_share or max_share == 1) and not missing:
                return crop
            found.append(((missing, share), crop))
        return min(found, key=lambda pair: pair[0])[1]

    def sparse(self, annotation: Annotation) -> Int[Tensor, "h w"] | None:
        """Return the labels of the crop on a coarse grid, or None where pixels have none."""
        if not isinstance(annotation, Dense | Segments):
            return None
        rows, cols = self._sources()
        sparse = (rows[:: -(-len(rows) // PROBES)], cols[:: -(-len(cols) // PROBES)])
        if isinstance(annotation, Dense):
            return _take(annotation.labels, *sparse)
        return annotation._replace(ids=_take(annotation.ids, *sparse)).labels

    def _sources(self) -> tuple[Int[Tensor, " h"], Int[Tensor, " w"]]:
        (h, w), (h0, w0) = self.native, self.decoded
        return self.rows.sources(h / h0, h), self.cols.sources(w / w0, w)

    @property
    def window(self) -> Window:
        """The part of the decoded image that the crop shows."""
        return Window(self.rows.lo, self.cols.lo, self.rows.hi - self.rows.lo, self.cols.hi - self.cols.lo)

    @property
    def inside(self) -> Crop:
        """The same crop, of its window alone; the image was decoded at native size."""
        _, _, height, width = self.window
        rows, cols = (s._replace(lo=0, hi=s.hi - s.lo) for s in (self.rows, self.cols))
        return Crop(rows, cols, (height, width), (height, width), self.size)

    def resized(self, window: UInt8[Tensor, "3 _ _"]) -> UInt8[Tensor, "3 h w"]:
        """Resize the crop's window, maybe read at a reduced scale, without padding."""
        r0, r1, c0, c1 = *self.rows[2:], *self.cols[2:]
        if c1 - c0 == 1:
            # torch's kernel for 8 bits fails, or gives wrong values, where the result is one pixel wide (seen in 2.15).
            window = window.float()
        out: Tensor = V.resize(window, [r1 - r0, c1 - c0], antialias=True)
        # Resizing is three times as fast with a pixel's colours side by side, what follows with a plane for each.
        return (out if out.dtype == torch.uint8 else out.round().to(torch.uint8)).contiguous()

    def pad(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 H W"]:
        """Put the image where it belongs in a crop of full size."""
        if image.shape[-2:] == self.size:
            return image
        out = torch.tensor(MEAN_COLOR, dtype=torch.uint8)[:, None, None].repeat(1, *self.size)
        out[:, self.rows.start : self.rows.stop, self.cols.start : self.cols.stop] = image
        return out

    def annotation(self, annotation: Annotation) -> Annotation:
        """Cut the annotation: nearest labels, segments that are left, boxes clipped and empty ones dropped."""
        if isinstance(annotation, Dense):
            return Dense(self._labels(annotation.labels))
        if isinstance(annotation, Segments):
            return _compact(Segments(self._labels(annotation.ids), annotation.classes))
        return self._boxes(annotation) if isinstance(annotation, Boxes) else annotation

    def _labels(self, plane: Int[Tensor, "h0 w0"]) -> Int[Tensor, "H W"]:
        # Labels have few bits until here: a crop has fewer pixels than an image.
        labels = _take(plane, *self._sources()).long()
        if labels.shape == self.size:
            return labels
        out = labels.new_full(self.size, IGNORE)
        out[self.rows.start : self.rows.stop, self.cols.start : self.cols.stop] = labels
        return out

    def _boxes(self, annotation: Boxes) -> Boxes:
        """Move boxes as the pixels; a box that has any area left stays."""
        corners = annotation.boxes.view(-1, 2, 2).clone()
        for axis, span, native, decoded in (
            (1, self.rows, self.native[0], self.decoded[0]),
            (0, self.cols, self.native[1], self.decoded[1]),
        ):
            zoom = (span.stop - span.start) / (span.hi - span.lo)
            moved = (corners[..., axis] * (decoded / native) - span.lo) * zoom + span.start
            corners[..., axis] = moved.clamp(span.start, span.stop)
        keep = (corners[:, 1] > corners[:, 0]).all(1)
        return Boxes(corners.flatten(1)[keep], annotation.classes[keep], torch.tensor(self.size))


def _commonest(labels: Int[Tensor, "h w"]) -> float:
    """Return the commonest class's share of the labelled pixels; infinite where nothing is labelled.

    A crop without labels is thus drawn again: it teaches nothing.
    """
    known = labels[labels != IGNORE]
    return float(known.long().bincount().max()) / len(known) if len(known) else math.inf


def _take(plane: Int[Tensor, "h0 w0"], rows: Int[Tensor, " h"], cols: Int[Tensor, " w"]) -> Int[Tensor, "h w"]:
    """Return the labels at the crossings of ascending `rows` and `cols`."""
    # NumPy's, which takes a quarter of the time of torch's along the columns.
    first, last = int(cols[0]), int(cols[-1])
    lines = plane.as_subclass(Tensor).numpy()[rows.numpy(), first : last + 1]
    return torch.from_numpy(lines.take((cols - first).numpy(), 1))


def _compact(segments: Segments) -> Segments:
    """Forget the segments that no pixel is left of, so that a crop costs what it shows."""
    slots = len(segments.classes)
    present = (segments.ids.flatten().long() + 1).bincount(minlength=slots + 1)[1:] > 0
    table = torch.full((slots + 1,), IGNORE, dtype=segments.ids.dtype)
    table[1:][present] = torch.arange(int(present.sum()), dtype=table.dtype)
    return Segments(table[segments.ids.long() + 1], segments.classes[present])


def flip(annotation: Annotation, width: int) -> Annotation:
    """Mirror an annotation of an image of `width` pixels left to right."""
    if isinstance(annotation, Tags):
        return annotation
    if isinstance(annotation, Boxes):
        x0, y0, x1, y1 = annotation.boxes.unbind(-1)
        return annotation._replace(boxes=torch.stack([width - x1, y0, width - x0, y1], -1))
    plane, *others = annotation
    return type(annotation)(plane.flip(-1), *others)


def rotate(
    image: UInt8[Tensor, "3 H W"], annotation: Annotation, degrees: float
) -> tuple[UInt8[Tensor, "3 H W"], Annotation]:
    """Turn a crop about its centre, to the left by `degrees`: colours bilinear, labels the nearest pixel's.

    What comes in at the corners has the mean colour and no label. A box becomes the upright one around the turned one,
    within the crop.
    """
    turned: Tensor = V.rotate(image, degrees, V.InterpolationMode.BILINEAR, fill=[float(c) for c in MEAN_COLOR])
    if isinstance(annotation, Tags):
        return turned, annotation
    if isinstance(annotation, Boxes):
        return turned, _rotated_boxes(annotation, degrees)
    plane, *others = annotation
    labels = V.rotate(plane[None], degrees, V.InterpolationMode.NEAREST, fill=[float(IGNORE)])[0]
    if isinstance(annotation, Segments):
        return turned, _compact(Segments(labels, *others))
    return turned, Dense(labels)


def _rotated_boxes(annotation: Boxes, degrees: float) -> Boxes:
    height, width = annotation.extent.tolist()
    x0, y0, x1, y1 = annotation.boxes.unbind(-1)
    x = torch.stack([x0, x1, x0, x1], -1) - width / 2
    y = torch.stack([y0, y0, y1, y1], -1) - height / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    across = (cos * x + sin * y + width / 2).clamp(0, width)
    down = (cos * y - sin * x + height / 2).clamp(0, height)
    sides = (across.amin(-1), down.amin(-1), across.amax(-1), down.amax(-1))
    keep = (sides[2] > sides[0]) & (sides[3] > sides[1])
    return Boxes(torch.stack(sides, -1)[keep], annotation.classes[keep], annotation.extent)
