"""Label maps as pictures: index PNGs with a palette, and overlays with a legend."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from manyseg.data.card import Card
from manyseg.data.font import legend_font
from manyseg.labels import IGNORE, LabelSpace

__all__ = ["PixelValues", "mask_image", "overlay"]

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
    photo = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    grow = max(1.0, MIN_SIDE / max(photo.size))
    size = (round(photo.size[0] * grow), round(photo.size[1] * grow))
    values = labels.cpu().numpy()
    colors: UInt8[np.ndarray, "D+1 4"] = np.zeros((len(space) + 1, 4), np.uint8)
    colors[:-1, :3], colors[:-1, 3] = space.colors, round(255 * OPACITY)
    # IGNORE is -1, the last row.
    paint = Image.fromarray(colors[values]).resize(size, Image.Resampling.NEAREST)
    picture = photo.resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    picture.alpha_composite(paint)
    found, counts = np.unique(values[values != IGNORE], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shares = [(int(found[i]), float(counts[i]) / values.size) for i in order]
    legend = _legend(shares, space, size[1], text_size=max(15, round(max(size) / 45)))
    out = Image.new("RGB", (size[0] + legend.size[0], max(size[1], legend.size[1])), "white")
    out.paste(picture.convert("RGB"), (0, 0))
    out.paste(legend, (size[0], 0))
    return out


def _legend(shares: list[tuple[int, float]], space: LabelSpace, height: int, text_size: int) -> Image.Image:
    """Draw the colour, name and share of each class, in few columns, as high as the picture if they fit."""
    line, gap = round(1.5 * text_size), text_size // 2
    rows = max(1, (height - gap) // line, math.ceil(len(shares) / COLUMNS))
    texts = [f"{space.names[c]}  {_share(share)}" for c, share in shares]
    font = legend_font(text_size, texts)
    columns = [range(start, min(start + rows, len(texts))) for start in range(0, len(texts), rows)]
    widths = [2 * gap + text_size + gap + max(round(font.getlength(texts[i])) for i in column) for column in columns]
    out = Image.new("RGB", (sum(widths) + gap, max(height, gap + min(rows, len(texts)) * line)), "white")
    draw, left = ImageDraw.Draw(out), gap
    for column, width in zip(columns, widths, strict=True):
        for row, i in enumerate(column):
            top = gap + row * line
            color = tuple(space.colors[shares[i][0]].tolist())
            draw.rectangle((left, top, left + text_size, top + text_size), fill=color, outline="#444444")
            draw.text((left + text_size + gap, top + text_size / 2), texts[i], "#111111", font, anchor="lm")
        left += width
    return out


def _share(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"
