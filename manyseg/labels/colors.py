"""Colours of classes: one concept has one colour, and classes that a dataset tells apart have colours far apart.

A colour that a card states stays. A name of the field's standard palettes has its colour there (docs/labels.md). Other
names take a colour from a list of distinct ones, at a place that the name decides, so that a name has mostly the same
colour in whatever company. Distances are Euclidean in CIELAB (CIE76, white point D65).

Axes: N colours or classes, M other colours, D classes of one dataset.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from manyseg.labels.names import normalise

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

__all__ = [
    "FAR",
    "HEX_COLOR",
    "Color",
    "assign_colors",
    "color_distances",
    "hex_color",
    "is_hex_color",
    "parse_color",
    "standard_color",
]

Color: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

HEX_COLOR = "#[0-9a-fA-F]{6}"
"""The pattern of a colour as text."""

FAR = 20.0
"""The distance that two chosen colours of one dataset have at least, while there are such colours."""

FINE = 12.0
"""The distance of the colours of which the farthest is chosen where there are no more at `FAR`."""

NEAR = 10.0
"""A colour of a name is not taken by a class if it would be nearer than this to another class of the dataset."""

STANDARD: dict[Color, str] = {
    # The palette that most datasets of streets share.
    (128, 64, 128): "road, carriageway, roadway, street",
    (244, 35, 232): "sidewalk, pavement, footpath, footway",
    (250, 170, 160): "parking, parking lot, car park",
    (70, 70, 70): "building, house",
    (102, 102, 156): "wall",
    (190, 153, 153): "fence",
    (150, 100, 100): "bridge",
    (153, 153, 153): "pole, column pole",
    (250, 170, 30): "traffic light, trafficlight, traffic signal",
    (220, 220, 0): "traffic sign, sign symbol, signsymbol, road sign",
    (107, 142, 35): "vegetation, tree, foliage, nature",
    (152, 251, 152): "terrain, grass, lawn",
    (70, 130, 180): "sky",
    (220, 20, 60): "person, pedestrian, people, human",
    (255, 0, 0): "rider, bicyclist, cyclist",
    (0, 0, 142): "car, automobile",
    (0, 0, 70): "truck, lorry",
    (0, 60, 100): "bus",
    (0, 80, 100): "train, tram",
    (0, 0, 230): "motorcycle, motorbike, motorcycle scooter",
    (119, 11, 32): "bicycle, bike",
    # A larger one, where the colour is far enough from those above.
    (255, 255, 255): "lane marking, road marking, lane marking general, road paint",
    (128, 64, 255): "bike lane, bicycle lane, cycle lane",
    (0, 192, 0): "animal, ground animal",
    (190, 255, 255): "snow",
    (64, 170, 64): "mountain, hill",
    (255, 255, 128): "banner",
    (210, 170, 100): "street light, streetlight, street lamp, lamppost",
}
"""The names, as `normalise` writes them, that have each colour."""

_BY_NAME = {name: color for color, names in STANDARD.items() for name in names.split(", ")}


def is_hex_color(text: object) -> bool:
    """Whether this is a text like "#rrggbb"; letters may be small or capital."""
    return isinstance(text, str) and re.fullmatch(HEX_COLOR, text) is not None


def parse_color(text: str) -> Color:
    """Read "#rrggbb"; raises ValueError for anything else."""
    if not is_hex_color(text):
        raise ValueError(f'"{text}" is not a colour; write "#rrggbb"')
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def hex_color(color: Iterable[int]) -> str:
    """Write red, green and blue, 0 to 255 each, as "#rrggbb" in small letters; raises ValueError for other numbers."""
    return "#" + bytes(color).hex()


def standard_color(name: str) -> Color | None:
    """Return the colour that the standard palettes give to a name, or None."""
    return _BY_NAME.get(normalise(name))


def color_distances(a: UInt8[np.ndarray, "N 3"], b: UInt8[np.ndarray, "M 3"]) -> Float[np.ndarray, "N M"]:
    """Return the distances in CIELAB of every colour of `a` to every one of `b`; black and white are 100 apart."""
    return _distances(_lab(a), _lab(b))


def assign_colors(
    names: Sequence[str],
    stated: Sequence[Color | None],
    known: Mapping[str, Color] | None = None,
    apart: Callable[[int], np.ndarray] | None = None,
) -> UInt8[np.ndarray, "N 3"]:
    """Give every class the colour `stated` of it, else that of its name, else one far from the others.

    Colours of names are those `known`, by the name as it is or normalised, and the standard ones. `apart(i)` is
    Bool[N], the classes whose colours are to be far from that of class i; without it these are all the others. Chosen
    colours are `FAR` from them while there are any such, then as far as can be had.
    """
    out = np.zeros((len(names), 3), np.uint8)
    lab = np.zeros((len(names), 3))
    done = np.zeros(len(names), bool)
    known = known or {}

    def others(i: int) -> np.ndarray:
        return lab[done if apart is None else done & apart(i)]

    def take(i: int | list[int], color: Color | np.ndarray | list[Color]) -> None:
        out[i], done[i] = color, True
        lab[i] = _lab(out[i])

    if given := {i: color for i, color in enumerate(stated) if color is not None}:
        take(list(given), list(given.values()))
    folded = [normalise(name) for name in names]
    for i, name in enumerate(names):
        color = known.get(name) or known.get(folded[i]) or standard_color(name)
        if not done[i] and color is not None and _nearest(_lab(np.array([color], np.uint8)), others(i))[0] >= NEAR:
            take(i, color)
    for i in sorted(np.flatnonzero(~done).tolist(), key=lambda i: (folded[i], names[i])):
        take(i, _choose(folded[i], others(i)))
    return out


def _choose(name: str, others: Float[np.ndarray, "M 3"]) -> UInt8[np.ndarray, " 3"]:
    """Return the first distinct colour, from the name's place on, that is far from all others; or else the farthest."""
    colors, lab = _distinct(FAR)
    place = zlib.crc32(name.encode()) % len(colors)
    far = np.roll(_nearest(lab, others) >= FAR, -place)
    if far.any():
        first: np.ndarray = colors[(place + int(far.argmax())) % len(colors)]
        return first
    colors, lab = _distinct(FINE)
    # More classes than colours: then some are equal in any case.
    last = zlib.crc32(name.encode()) % len(colors) if len(others) > len(colors) else _nearest(lab, others).argmax()
    farthest: np.ndarray = colors[int(last)]
    return farthest


@lru_cache(maxsize=8)
def _distinct(distance: float) -> tuple[UInt8[np.ndarray, "N 3"], Float[np.ndarray, "N 3"]]:
    """Return colours that are so far from each other and from the standard ones, L* 25 to 93; and these in CIELAB."""
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lab = _lab(colors)
    seen = (lab[:, 0] >= 25) & (lab[:, 0] <= 93)
    colors, lab = colors[seen], lab[seen]
    # By b*, then a*, then L*: the next one lies close to those before, so that many fit.
    order = np.lexsort(lab.round().T)
    colors, lab = colors[order], lab[order]
    nearest = _nearest(lab, _lab(np.array(list(STANDARD), np.uint8)))
    chosen = []
    while (nearest >= distance).any():
        chosen.append(int((nearest >= distance).argmax()))
        nearest = np.minimum(nearest, _nearest(lab, lab[chosen[-1:]]))
    return colors[chosen], lab[chosen]


def _nearest(a: Float[np.ndarray, "N 3"], b: Float[np.ndarray, "M 3"]) -> Float[np.ndarray, " N"]:
    """Return the distance of each place of `a` to the nearest of `b`; infinite if there are none."""
    out: np.ndarray = _distances(a, b).min(-1, initial=np.inf)
    return out


def _distances(a: Float[np.ndarray, "N 3"], b: Float[np.ndarray, "M 3"]) -> Float[np.ndarray, "N M"]:
    out: np.ndarray = np.linalg.norm(a[:, None] - b, axis=-1)
    return out


def _lab(rgb: UInt8[np.ndarray, "*N 3"]) -> Float[np.ndarray, "*N 3"]:
    """Convert sRGB to CIELAB (IEC 61966-2-1, CIE 15)."""
    v = rgb / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = linear @ to_xyz.T / [0.9505, 1.0, 1.089]
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    out: np.ndarray = np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)
    return out
