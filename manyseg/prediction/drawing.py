"""Label maps as pictures: index PNGs with a palette, and overlays with a legend."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from manyseg.data.font import legend_font
from manyseg.labels import IGNORE, LabelSpace

__all__ = ["mask_image", "overlay"]

OPACITY = 0.55
COLUMNS = 3
MIN_SIDE = 640
"""Smaller pictures are enlarged to this many pixels on their longer side, so that a legend fits beside them."""


def mask_image(labels: Int[Tensor, "H W"], space: LabelSpace) -> Image.Image:
    """Return a label map as an index image whose values are positions in `space`.

    8 bits with the space's colours as palette up to 256 classes, else 16 bits. IGNORE becomes 255 or 65535; raises
    ValueError if a class has that position and IGNORE occurs too.
    """
    bits = 8 if len(space) <= 256 else 16
    ignored = 2**bits - 1
    values = labels.cpu().numpy()
    if len(space) > ignored and (values == IGNORE).any():
        raise ValueError(f"pixels of no class and {len(space)} classes do not fit {bits} bits")
    values = np.where(values == IGNORE, ignored, values).astype(np.uint8 if bits == 8 else np.uint16)
    image = Image.fromarray(values)
    if bits == 8:
        # All 256 entries: with fewer, a PNG would have fewer bits than IGNORE needs.
        image.putpalette(space.colors.tobytes().ljust(3 * 256, b"\0"))
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
