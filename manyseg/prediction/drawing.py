"""Label maps as pictures: index PNGs with a palette, and overlays with a legend, of photos and of videos."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from manyseg.data.card import Card
from manyseg.data.font import legend_font
from manyseg.inference.options import Size
from manyseg.labels import IGNORE, LabelSpace

__all__ = ["FrameOverlays", "PixelValues", "mask_image", "overlay"]

OPACITY = 0.55
COLUMNS = 3
MIN_SIDE = 640
"""Smaller pictures are enlarged to this many pixels on their longer side, so that a legend fits beside them."""


@dataclass(frozen=True)
class PixelValues:
    """The raw values that classes have in files, and that of pixels without a class, which is none of theirs."""

    classes: tuple[int, ...]
    ignored: int

    @classmethod
    def positions(cls, space: LabelSpace, first: int = 0) -> PixelValues:
        """Give every class its position from `first` on; pixels without a class are 255, or 65535 in 16 bits."""
        return cls(tuple(range(first, first + len(space))), 255 if len(space) < 256 else 65535)

    @classmethod
    def of(cls, card: Card) -> PixelValues | None:
        """Give every class the first of its values in a card, or return None where they are no numbers.

        Pixels without a class have the card's first ignored value, else the first of 255, 65535 and 0, 1, ... that is
        no class's.
        """
        classes = [card.values(name)[0] for name in card.space.names]
        numbers = [v for v in classes if isinstance(v, int)]
        if len(numbers) < len(classes):
            return None
        taken = {v for name in card.space.names for v in card.values(name)}
        ignored = (v for v in (*card.ignore, 255, 65535, *range(65535)) if isinstance(v, int) and v not in taken)
        return cls(tuple(numbers), next(ignored))

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The narrowest type that holds all values."""
        return np.uint8 if max(*self.classes, self.ignored) < 256 else np.uint16


def mask_image(labels: Int[Tensor, "H W"], space: LabelSpace, values: PixelValues | None = None) -> Image.Image:
    """Return a label map as an index image of the classes' values, by default their positions in `space`.

    8 bits with the space's colours as palette where all values are below 256, else 16 bits.
    """
    values = values or PixelValues.positions(space)
    positions = labels.cpu().numpy()
    # IGNORE is -1, the last one.
    image = Image.fromarray(np.array([*values.classes, values.ignored], values.dtype)[positions])
    if values.dtype is np.uint8:
        # All 256 entries: with fewer, a PNG would have fewer bits than the values need.
        palette = np.zeros((256, 3), np.uint8)
        palette[list(values.classes)] = space.colors
        image.putpalette(palette.tobytes())
    return image


def overlay(image: UInt8[Tensor, "3 _ _"], labels: Int[Tensor, "H W"], space: LabelSpace) -> Image.Image:
    """Return a picture with its label map over it and a legend of the classes that occur, largest first.

    The label map may have another resolution than the image. Pixels of IGNORE show the image alone.
    """
    grow = max(1.0, MIN_SIDE / max(image.shape[1:]))
    size = (round(image.shape[2] * grow), round(image.shape[1] * grow))
    values = labels.cpu().numpy()
    picture = _painted(image, values, space, size)
    counts = np.bincount(values[values != IGNORE], minlength=len(space))
    found = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c]]
    entries = [(c, f"{space.names[c]}  {_share(counts[c] / values.size)}") for c in found]
    legend = _legend(entries, space, size[1], _text_size(size))
    out = Image.new("RGB", (size[0] + legend.size[0], max(size[1], legend.size[1])), "white")
    out.paste(picture, (0, 0))
    out.paste(legend, (size[0], 0))
    return out


class FrameOverlays:
    """Overlays of a video's frames of (height, width) `size`: pictures of one size, with a legend that does not jump.

    The legend names the classes in the order in which they first occurred. Those that do not fit the height are left
    out of it. `size_out` is the (height, width) of the pictures: even numbers, as video formats want them.
    """

    def __init__(self, space: LabelSpace, size: Size) -> None:
        self.space, self.size = space, (size[1], size[0])
        self.text_size = _text_size(self.size)
        rows = _rows(size[0], self.text_size)
        self.columns = min(COLUMNS, math.ceil(len(space) / rows))
        self.most = rows * self.columns
        longest = max(legend_font(self.text_size, space.names).getlength(name) for name in space.names)
        width = size[1] + self.columns * _column_width(self.text_size, round(longest)) + self.text_size // 2
        self.size_out = (size[0] + size[0] % 2, width + width % 2)
        self.occurred: list[int] = []
        self.legend = Image.new("RGB", (1, 1), "white")

    def draw(self, image: UInt8[Tensor, "3 _ _"], labels: Int[np.ndarray, "H W"]) -> Image.Image:
        """Return the picture of a frame; frames are drawn in their order."""
        counts = np.bincount(labels[labels != IGNORE], minlength=len(self.space))
        if new := [int(c) for c in np.argsort(-counts, kind="stable") if counts[c] and c not in self.occurred]:
            self.occurred += new
            entries = [(c, self.space.names[c]) for c in self.occurred[: self.most]]
            self.legend = _legend(entries, self.space, self.size[1], self.text_size)
        out = Image.new("RGB", self.size_out[::-1], "white")
        out.paste(_painted(image, labels, self.space, self.size), (0, 0))
        out.paste(self.legend, (self.size[0], 0))
        return out


def _painted(
    image: UInt8[Tensor, "3 _ _"], labels: Int[np.ndarray, "H W"], space: LabelSpace, size: tuple[int, int]
) -> Image.Image:
    """Return an image at (width, height) `size` with its label map over it."""
    photo = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    colors: UInt8[np.ndarray, "D+1 4"] = np.zeros((len(space) + 1, 4), np.uint8)
    colors[:-1, :3], colors[:-1, 3] = space.colors, round(255 * OPACITY)
    # IGNORE is -1, the last row. A color is gathered as one number of 32 bits.
    painted = np.take(colors.view(np.uint32)[:, 0], labels, mode="wrap").view(np.uint8).reshape(*labels.shape, 4)
    paint = Image.fromarray(painted).resize(size, Image.Resampling.NEAREST)
    picture = photo.resize(size, Image.Resampling.BICUBIC)
    picture.paste(paint.convert("RGB"), mask=paint.getchannel("A"))
    return picture


def _text_size(size: tuple[int, int]) -> int:
    return max(15, round(max(size) / 45))


def _rows(height: int, text_size: int) -> int:
    return max(1, (height - text_size // 2) // round(1.5 * text_size))


def _column_width(text_size: int, longest: int) -> int:
    return 3 * (text_size // 2) + text_size + longest


def _legend(entries: list[tuple[int, str]], space: LabelSpace, height: int, text_size: int) -> Image.Image:
    """Draw the colour and text of each class, in few columns, as high as the picture if they fit."""
    line, gap = round(1.5 * text_size), text_size // 2
    rows = max(_rows(height, text_size), math.ceil(len(entries) / COLUMNS))
    texts = [text for _, text in entries]
    font = legend_font(text_size, texts)
    columns = [range(start, min(start + rows, len(texts))) for start in range(0, len(texts), rows)]
    widths = [_column_width(text_size, max(round(font.getlength(texts[i])) for i in column)) for column in columns]
    out = Image.new("RGB", (sum(widths) + gap, max(height, gap + min(rows, len(texts)) * line)), "white")
    draw, left = ImageDraw.Draw(out), gap
    for column, width in zip(columns, widths, strict=True):
        for row, i in enumerate(column):
            top = gap + row * line
            color = tuple(space.colors[entries[i][0]].tolist())
            draw.rectangle((left, top, left + text_size, top + text_size), fill=color, outline="#444444")
            draw.text((left + text_size + gap, top + text_size / 2), texts[i], "#111111", font, anchor="lm")
        left += width
    return out


def _share(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"
