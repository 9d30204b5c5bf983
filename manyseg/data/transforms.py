"""Image and annotation together: random resize, crop, flip, colour jitter and blur.

The order is chosen for speed. The scale is drawn first, so that a JPEG can be decoded at the size needed; the crop is
drawn next, from a sparse look at the labels; only the crop's own source pixels are then resized, and colours are
changed last. No step touches the whole image in floating point.

Axes: H W pixels of the crop, N segments, boxes or tags.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from manyseg.data.annotation import Annotation, Boxes, Dense, Segments, Tags
from manyseg.data.batch import Sample
from manyseg.data.folder import Folder
from manyseg.labels import IGNORE

__all__ = ["Augment", "AugmentOptions", "Jitter"]

TRIES = 10
"""How many crops are drawn, at most, in search of one that no class dominates (as the field does)."""

PROBES = 64
"""Labels that the search looks at along each axis of a candidate crop; the share is known to about 1 / 64."""

MEAN_COLOR = (124, 116, 104)
"""Colour of padding: the mean of ImageNet, near zero once normalised."""


class Jitter(BaseModel):
    """Strengths of the colour jitter; 0 leaves that quality alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    brightness: float = Field(default=0.25, ge=0, le=1, description="Brightness is multiplied by 1 - this to 1 + this.")
    contrast: float = Field(default=0.25, ge=0, le=1, description="Contrast about mid-grey is multiplied likewise.")
    saturation: float = Field(default=0.25, ge=0, le=1, description="Saturation is multiplied likewise.")
    hue: float = Field(
        default=0.02, ge=0, le=0.5, description="Hue is turned by up to this part of a full turn, either way."
    )


class AugmentOptions(BaseModel):
    """How training images are varied; the same keys are common to all datasets or a dataset's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crop: tuple[int, int] = Field(
        default=(512, 512), description="Height and width in pixels of what the network sees."
    )
    scale: tuple[float, float] = Field(default=(0.5, 2.0), description="Range of the random zoom; uniform.")
    short_side: int | None = Field(
        None, gt=0, description="Zoom 1 makes the shorter side this many pixels; without it, zoom 1 is native size."
    )
    max_share: float = Field(
        0.8, gt=0, le=1, description="A crop is drawn again while one class has more than this share of its labels."
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="Chance of a left-right flip.")
    jitter: Jitter = Field(default=Jitter(), description="Strengths of the colour jitter.")
    blur: float = Field(default=0.0, ge=0, le=1, description="Chance of a Gaussian blur.")
    blur_sigma: tuple[float, float] = Field(
        default=(0.1, 2.0), description="Range of the blur's sigma in pixels of the crop."
    )

    @model_validator(mode="after")
    def _check_ranges(self) -> AugmentOptions:
        if min(self.crop) < 1:
            raise ValueError(f"crop is {list(self.crop)}; give a height and a width of at least 1 pixel")
        for name in ("scale", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ValueError(f"{name} is {[low, high]}; give two positive numbers, the smaller first")
        return self

    def summary(self) -> str:
        """Say in one line what is done to an image, for printing before training."""
        jitter = " ".join(f"{name} {value:g}" for name, value in self.jitter if value)
        parts = [
            f"scale {self.scale[0]:g}-{self.scale[1]:g}" + (f" of {self.short_side} px" if self.short_side else ""),
            f"max share {self.max_share:g}" if self.max_share < 1 else "",
            f"flip {self.flip:g}" if self.flip else "",
            f"jitter {jitter}" if jitter else "",
            f"blur {self.blur:g}" if self.blur else "",
        ]
        return ", ".join(p for p in parts if p)


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


class Augment:
    """Reads one image of a folder and varies it as `options` say; the result has exactly the size of the crop.

    All randomness is one vector drawn from the generator, of a length that depends on nothing.
    """

    def __init__(self, options: AugmentOptions) -> None:
        self.options = options

    def __call__(self, folder: Folder, index: int, generator: torch.Generator) -> Sample:
        """Return image `index` of `folder`, varied, with 8-bit colours and IGNORE for labels outside of the image."""
        options = self.options
        zoom, flip, blur, sigma, *rest = torch.rand(8 + 2 * TRIES, generator=generator, dtype=torch.float64).tolist()
        native: list[int] = []

        def target(size: tuple[int, int]) -> tuple[int, int]:
            native[:] = size
            return self._scaled(size, zoom)

        name, image, annotation = folder.read(index, target)
        decoded = (image.shape[-2], image.shape[-1])
        size = (native[0], native[1]) if native else decoded
        crop = _Crop.draw(annotation, size, decoded, self._scaled(size, zoom), options, rest[4:])
        image = crop.image(image)
        if any(strength for _, strength in options.jitter):
            image = _jitter(image, options.jitter, rest[:4])
        if blur < options.blur:
            low, high = options.blur_sigma
            image = _blur(image, low + sigma * (high - low))
        image, annotation = crop.pad(image), crop.annotation(annotation)
        if flip < options.flip:
            image, annotation = image.flip(-1), _flip(annotation, options.crop[1])
        return Sample(name, image.contiguous(), annotation)

    def _scaled(self, size: tuple[int, int], zoom: float) -> tuple[int, int]:
        low, high = self.options.scale
        factor = low + zoom * (high - low)
        if self.options.short_side is not None:
            factor *= self.options.short_side / min(size)
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


class _Crop(NamedTuple):
    """Which part of a decoded image becomes the crop; annotations are at `native` size, the image at `decoded`."""

    rows: Span
    cols: Span
    native: tuple[int, int]
    decoded: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def draw(
        cls,
        annotation: Annotation,
        native: tuple[int, int],
        decoded: tuple[int, int],
        scaled: tuple[int, int],
        options: AugmentOptions,
        draws: list[float],
    ) -> _Crop:
        """Draw places until no class has more than its share; failing that, take the most varied one drawn."""
        best, least = None, math.inf
        for u, v in zip(draws[::2], draws[1::2], strict=True):
            rows = Span.place(decoded[0], scaled[0], options.crop[0], u)
            cols = Span.place(decoded[1], scaled[1], options.crop[1], v)
            crop = cls(rows, cols, native, decoded, options.crop)
            if options.max_share == 1 or not isinstance(annotation, Dense | Segments):
                return crop
            share = crop.share(annotation)
            if share <= options.max_share:
                return crop
            if best is None or share < least:
                best, least = crop, share
        assert best is not None
        return best

    def share(self, annotation: Dense | Segments) -> float:
        """Estimate the commonest class's share of the labelled pixels; infinite where nothing is labelled.

        A crop without labels is thus drawn again: it teaches nothing.
        """
        rows, cols = self._sources()
        sparse = (rows[:: -(-len(rows) // PROBES)], cols[:: -(-len(cols) // PROBES)])
        if isinstance(annotation, Dense):
            labels = _take(annotation.labels, *sparse)
        else:
            labels = annotation._replace(ids=_take(annotation.ids, *sparse)).labels
        known = labels[labels != IGNORE]
        return float(known.long().bincount().max()) / len(known) if len(known) else math.inf

    def _sources(self) -> tuple[Int[Tensor, " h"], Int[Tensor, " w"]]:
        (h, w), (h0, w0) = self.native, self.decoded
        return self.rows.sources(h / h0, h), self.cols.sources(w / w0, w)

    def image(self, image: UInt8[Tensor, "3 h0 w0"]) -> UInt8[Tensor, "3 h w"]:
        """Cut the crop out of the image and resize it, without padding."""
        (top, bottom, r0, r1), (left, right, c0, c1) = self.rows, self.cols
        window = image.as_subclass(Tensor)[:, top:bottom, left:right]
        out: Tensor = V.resize(window, [r1 - r0, c1 - c0], antialias=True)
        return out

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
        labels = _take(plane, *self._sources())
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


def _take(plane: Int[Tensor, "h0 w0"], rows: Int[Tensor, " h"], cols: Int[Tensor, " w"]) -> Int[Tensor, "h w"]:
    """Return the labels at the crossings of ascending `rows` and `cols`."""
    first, last = int(cols[0]), int(cols[-1])
    return plane.as_subclass(Tensor)[:, first : last + 1].index_select(0, rows).index_select(1, cols - first)


def _compact(segments: Segments) -> Segments:
    """Forget the segments that no pixel is left of, so that a crop costs what it shows."""
    slots = len(segments.classes)
    present = (segments.ids.flatten().long() + 1).bincount(minlength=slots + 1)[1:] > 0
    table = torch.full((slots + 1,), IGNORE, dtype=segments.ids.dtype)
    table[1:][present] = torch.arange(int(present.sum()), dtype=table.dtype)
    return Segments(table[segments.ids.long() + 1], segments.classes[present])


def _flip(annotation: Annotation, width: int) -> Annotation:
    if isinstance(annotation, Tags):
        return annotation
    if isinstance(annotation, Boxes):
        x0, y0, x1, y1 = annotation.boxes.unbind(-1)
        return annotation._replace(boxes=torch.stack([width - x1, y0, width - x0, y1], -1))
    plane, *others = annotation
    return type(annotation)(plane.flip(-1), *others)


def _jitter(image: UInt8[Tensor, "3 h w"], strength: Jitter, draws: list[float]) -> UInt8[Tensor, "3 h w"]:
    """Change brightness, contrast, saturation and hue by one affine map of RGB, clipped once.

    Hue turns and saturation stretches the chroma plane of YIQ, as video equipment and NVIDIA DALI's ColorTwist do:
    twenty times cheaper than HSV, which leaves no affine map.
    """
    brightness, contrast, saturation, hue = (2 * u - 1 for u in draws)
    angle = math.tau * strength.hue * hue
    chroma = 1 + strength.saturation * saturation
    gain = 1 + strength.brightness * brightness
    slope = 1 + strength.contrast * contrast
    turn = torch.eye(3)
    turn[1:, 1:] = chroma * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = gain * slope * (_FROM_YIQ @ turn @ _TO_YIQ)
    offset = torch.full((3, 1), gain * (1 - slope) * 127.5)
    out = torch.addmm(offset, matrix, image.reshape(3, -1).float())
    return out.round_().clamp_(0, 255).to(torch.uint8).view(image.shape)


_TO_YIQ: Float[Tensor, "3 3"] = torch.tensor(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]
)  # FCC NTSC standard (SMPTE C)
_FROM_YIQ: Float[Tensor, "3 3"] = torch.linalg.inv(_TO_YIQ)


def _blur(image: UInt8[Tensor, "3 h w"], sigma: float) -> UInt8[Tensor, "3 h w"]:
    """Blur by a Gaussian cut at three sigma, or at the image's size (its edges are reflected)."""
    reach = min(math.ceil(3 * sigma), min(image.shape[-2:]) - 1)
    out: Tensor = V.gaussian_blur(image, [2 * reach + 1] * 2, [sigma, sigma])
    return out
