"""Charts as inline SVG, readable without scripts, in light and dark mode, and without telling colours apart."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from PIL import Image

from manyseg.templates import render

__all__ = ["Series", "heat_map", "line_chart"]

POINTS = 240
"""The largest number of points of a line; longer series are averaged over equal intervals."""

WIDTH, HEIGHT = 520, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 100, 12, 36
LETTER = 7.3
"""The width of a letter of a label, at most: lines end where the longest label has room beside them."""

LABEL = 14
"""The least distance in pixels between two labels at the ends of lines."""


class Series(NamedTuple):
    """A line: points in order of x; it has a gap where y is not finite. A bold one is drawn above the others."""

    name: str
    points: Sequence[tuple[float, float]]
    bold: bool = False


def line_chart(title: str, series: Sequence[Series], *, percent: bool = False, along: str = "step") -> Markup:
    """Draw lines over training steps, or over the quantity `along`, with y from 0, each labelled at its end.

    The values under the pointer are shown. Returns an empty string if no series has a finite point.
    """
    thin = [s._replace(points=_thin(s.points)) for s in series]
    finite = [p for s in thin for p in s.points if math.isfinite(p[1])]
    if not finite:
        return Markup("")
    last = max(x for x, _ in finite)
    # A single point still needs an axis of some width.
    first = min(x for x, _ in finite) if last > min(x for x, _ in finite) else min(0.0, last - 1)
    x_ticks = [x for x in _ticks(first, last) if x.is_integer()] or [last]
    y_ticks = _ticks(min(0.0, *(y for _, y in finite)), max(y for _, y in finite) or 1.0, beyond=True)
    low, high = y_ticks[0], y_ticks[-1]

    longest = max(len(_short(s.name)) for s in thin)
    right = WIDTH - max(RIGHT, round(18 + LETTER * (longest + 5)))
    # The labels of many lines need more height.
    tall = max(HEIGHT, TOP + BOTTOM + LABEL * len(series))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) * (right - LEFT)
        return round(LEFT + across, 1), round(tall - BOTTOM - (y - low) / (high - low) * (tall - TOP - BOTTOM), 1)

    ends = [next((y for _, y in reversed(s.points) if math.isfinite(y)), math.nan) for s in thin]
    heights = _spread([place(last, y)[1] if math.isfinite(y) else math.nan for y in ends], tall - BOTTOM)
    shown = [
        {
            "name": s.name,
            "short": _short(s.name),
            "bold": s.bold,
            "color": color,
            "path": _path([place(x, y) if math.isfinite(y) else None for x, y in s.points]),
            "dots": [place(x, y) for x, y in s.points if math.isfinite(y)] if len(s.points) <= 12 else [],
            "end": round(height, 1),
            "label": _number(end, percent),
        }
        for color, (s, end, height) in enumerate(zip(thin, ends, heights, strict=True))
        if math.isfinite(end)
    ]
    data = [
        {"name": s.name, "x": [p[0] for p in s.points], "y": [_json(p[1]) for p in s.points]}
        for s, end in zip(thin, ends, strict=True)
        if math.isfinite(end)
    ]
    return Markup(
        render(
            "lines.html",
            title=title,
            along=along,
            width=WIDTH,
            height=tall,
            left=LEFT,
            right=right,
            top=TOP,
            bottom=tall - BOTTOM,
            x_ticks=[(place(x, low)[0], f"{x:,.0f}".replace(",", "\u2009")) for x in x_ticks],
            y_ticks=[(place(first, y)[1], _number(y, percent)) for y in y_ticks],
            shown=shown,
            data={
                "series": data,
                "along": along,
                "first": first,
                "last": last,
                "left": LEFT,
                "right": right,
                "percent": percent,
            },
        )
    )


def heat_map(names: Sequence[str], shares: Float[np.ndarray, "D D"]) -> Markup:
    """Draw a row-normalised confusion matrix: true classes are rows, predicted classes columns.

    Opacity is the square root of the share of the row, so that small confusions are visible. The cells are one embedded
    picture, so that 150 classes need some kilobytes; with up to 16 classes the percentages are written into the cells.
    Rows without pixels are blank.
    """
    alpha = np.round(255 * np.sqrt(np.clip(np.nan_to_num(shares), 0, 1))).astype(np.uint8)
    pixels = np.zeros((*alpha.shape, 4), np.uint8)
    pixels[..., :3] = (38, 104, 196)
    pixels[..., 3] = alpha
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    count = len(names)
    cell = 34 if count <= 16 else max(11, 640 // count)
    margin = 8 + round(6.2 * min(26, max(map(len, names))))
    texts = [
        {"x": j, "y": i, "text": f"{100 * shares[i, j]:.0f}", "strong": bool(alpha[i, j] > 150)}
        for i in range(count)
        for j in range(count)
        if count <= 16 and shares[i, j] >= 0.005
    ]
    return Markup(
        render(
            "heat.html",
            names=[n if len(n) <= 26 else n[:25] + "…" for n in names],
            full=list(names),
            picture="data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(),
            cell=cell,
            margin=margin,
            side=cell * count,
            texts=texts,
            small=cell < 14,
        )
    )


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average a long series over equal intervals; the x of an interval is that of its last point."""
    size = math.ceil(len(points) / POINTS)
    if size <= 1:
        return list(points)
    parts = [np.asarray(points[i : i + size], float) for i in range(0, len(points), size)]
    return [(float(p[-1, 0]), float(np.mean(ys)) if len(ys := p[np.isfinite(p[:, 1]), 1]) else math.nan) for p in parts]


def _ticks(low: float, high: float, *, beyond: bool = False) -> list[float]:
    """Return 4 to 6 round numbers between `low` and `high`, or with `beyond` from below `low` to above `high`."""
    raw = max(high - low, 1e-9) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(f for f in (1, 2, 2.5, 5, 10) if f * power >= raw * 0.999)
    start, stop = low / step, high / step
    # The tolerance is for limits that are round numbers: there is to be no tick outside of them.
    if beyond:
        first, last = math.floor(start + 1e-9), math.ceil(stop - 1e-9)
    else:
        first, last = math.ceil(start - 1e-9), math.floor(stop + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _path(places: Sequence[tuple[float, float] | None]) -> str:
    """Return an SVG path with gaps where a place is None."""
    out, down = [], False
    for place in places:
        if place is not None:
            out.append(f"{'L' if down else 'M'}{place[0]:g} {place[1]:g}")
        down = place is not None
    return "".join(out)


def _spread(heights: Sequence[float], bottom: float) -> list[float]:
    """Move labels so that they are at least LABEL pixels from each other, in order, and above the bottom."""
    order = sorted((h, i) for i, h in enumerate(heights) if math.isfinite(h))
    placed, floor = list(heights), -math.inf
    for height, i in order:
        placed[i] = floor = max(height, floor + LABEL)
    ceiling = bottom
    for _, i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= LABEL
    return placed


def _number(value: float, percent: bool) -> str:
    if percent:
        return f"{100 * value:.1f}".removesuffix(".0")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u2009")


def _json(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
