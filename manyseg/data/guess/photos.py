"""Photos that are no ordinary pictures: many bands, or more than 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from manyseg.data.bands import BandFacts, band_facts
from manyseg.data.files import opened
from manyseg.errors import UserError

__all__ = ["PhotoKeys", "is_banded", "photo_keys"]

DARK = 1 << 15
"""16-bit images whose brightest value is below have a range of their own."""


class PhotoKeys(NamedTuple):
    """Keys that a card needs for its photos, each with a comment, and what is unsure about them."""

    keys: dict[str, tuple[Any, str]]
    unsure: tuple[str, ...] = ()


def is_banded(path: Path) -> bool:
    """Say whether a file is an image of several bands that only the reader of bands can open."""
    try:
        with opened(path):
            return False
    except UserError:
        pass
    try:
        return band_facts(path).bands > 1
    except UserError:
        return False


def photo_keys(paths: Sequence[Path]) -> PhotoKeys:
    """Return what a card must say of the photos at `paths`, a few of a dataset's."""
    found: list[BandFacts] = []
    brightest = 0
    for path in paths:
        if is_banded(path):
            found.append(band_facts(path, values=True))
            continue
        try:
            with opened(path) as image:
                if image.mode.startswith("I"):
                    brightest = max(brightest, int(np.asarray(image).max()))
        except UserError:
            continue
    if found:
        return _of_bands(found)
    if 0 < brightest < DARK:
        return PhotoKeys({"range": ([0, brightest], f"black and white; seen in {len(paths)} images")})
    return PhotoKeys({})


def _of_bands(found: Sequence[BandFacts]) -> PhotoKeys:
    count, colors = min(f.bands for f in found), found[0].colors
    bands = colors or ((1, 2, 3) if count >= 3 else (1,))
    how = "as the file says" if colors else "which are red, green and blue is not known"
    keys: dict[str, tuple[Any, str]] = {"bands": (list(bands), f"of {count} bands, {how}")}
    low, high = min(f.low for f in found), max(f.high for f in found)
    if found[0].kind != "uint8" and low < high:
        keys["range"] = ([min(0, low), high], f"black and white; values of {len(found)} images, {found[0].kind}")
    unsure = () if colors else (f"images have {count} bands, and the file does not say which are red, green and blue",)
    return PhotoKeys(keys, unsure)
