"""Image and annotation together: random resize, crop, rotation, flip, colour jitter and blur.

The order is chosen for speed. The scale is drawn first, so that a JPEG can be decoded at the size needed; the crop is
drawn next, from a sparse look at the labels; only the crop's own source pixels are then resized, and colours are
changed last. No step touches the whole image in floating point.

Axes: H W pixels of the crop, h w of its part inside the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from manyseg.data.annotation import Annotation
from manyseg.data.batch import Sample
from manyseg.data.crop import Crop, flip, rotate
from manyseg.data.folder import Folder
from manyseg.data.options import AugmentOptions, Jitter
from manyseg.data.window import Size, Window

__all__ = ["Augment"]

TRIES = 10
"""How many crops are drawn, at most, in search of one that no class dominates (as the field does)."""


Places: TypeAlias = Sequence[tuple[float, float]]
"""Where crops may lie, as numbers from 0 to 1."""


class Cut(NamedTuple):
    """A crop with what was read for it: the image without padding."""

    crop: Crop
    image: UInt8[Tensor, "3 h w"]
    annotation: Annotation


class Augment:
    """Reads one image of a folder and varies it as `options` say; the result has exactly the size of the crop.

    All randomness is one vector drawn from the generator, of a length that depends on nothing.
    """

    def __init__(self, options: AugmentOptions) -> None:
        self.options = options

    def __call__(self, folder: Folder, index: int, generator: torch.Generator, wanted: int | None = None) -> Sample:
        """Return image `index` of `folder`, varied, with 8-bit colours and IGNORE for labels outside of the image.

        The crop has the class `wanted` where one of those that are tried has.
        """
        options = self.options
        draws = torch.rand(9 + 2 * TRIES, generator=generator, dtype=torch.float64).tolist()
        (zoom, mirror, blur, sigma), jitter, places, turn = draws[:4], draws[4:8], draws[8:-1], draws[-1]
        pairs = list(zip(places[::2], places[1::2], strict=True))
        cut = self._from_windows if folder.by_windows else self._from_whole
        crop, image, annotation = cut(folder, index, zoom, pairs, wanted)
        if any(strength for _, strength in options.jitter):
            image = _jitter(image, options.jitter, jitter)
        if blur < options.blur:
            low, high = options.blur_sigma
            image = _blur(image, low + sigma * (high - low))
        image = crop.pad(image)
        if options.rotate:
            image, annotation = rotate(image, annotation, (2 * turn - 1) * options.rotate)
        if mirror < options.flip:
            image, annotation = image.flip(-1), flip(annotation, options.crop[1])
        return Sample(folder.ids[index], image.contiguous(), annotation)

    def _from_whole(self, folder: Folder, index: int, zoom: float, places: Places, wanted: int | None) -> Cut:
        """Read an image, and cut the crop out of it."""
        size, most, crops = self.options.crop, self.options.max_share, list[Crop]()

        def part(annotation: Annotation, native: Size, decoded: Size) -> Window:
            scaled = self._scaled(native, zoom)
            look = partial(Crop.sparse, annotation=annotation)
            crops.append(Crop.choose(look, native, decoded, scaled, size, most, places, wanted))
            return crops[0].window

        _, window, annotation = folder.read(index, partial(self._scaled, zoom=zoom), part)
        return Cut(crops[0], crops[0].resized(window), crops[0].annotation(annotation))

    def _from_windows(self, folder: Folder, index: int, zoom: float, places: Places, wanted: int | None) -> Cut:
        """Read of an image of many bands, and of its labels, the crop's part alone."""
        options, read = self.options, dict[Crop, Annotation]()
        with folder.windows(folder.files(index)) as parts:

            def annotation(crop: Crop) -> Annotation:
                if crop not in read:
                    read[crop] = parts.annotation(crop.window)
                return read[crop]

            size = parts.size
            crop = Crop.choose(
                lambda crop: crop.inside.sparse(annotation(crop)),
                size, size, self._scaled(size, zoom), options.crop, options.max_share, places, wanted,
            )  # fmt: skip
            least = (crop.rows.stop - crop.rows.start, crop.cols.stop - crop.cols.start)
            return Cut(crop, crop.resized(parts.pixels(crop.window, least)), crop.inside.annotation(annotation(crop)))

    def _scaled(self, size: Size, zoom: float) -> Size:
        low, high = self.options.scale
        factor = low + zoom * (high - low)
        if self.options.short_side is not None:
            factor *= self.options.short_side / min(size)
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _jitter(image: UInt8[Tensor, "3 h w"], strength: Jitter, draws: list[float]) -> UInt8[Tensor, "3 h w"]:
    """Change brightness, contrast, saturation and hue by one affine map of RGB, clipped once.

    Hue turns and saturation stretches the chroma plane of YIQ, as video equipment and NVIDIA DALI's ColorTwist do:
    an order of magnitude cheaper than turning hue in HSV, which is not affine.
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
