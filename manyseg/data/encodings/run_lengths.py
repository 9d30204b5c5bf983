"""The pixels of objects as run lengths, in COCO's packed text, and their windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from pycocotools import mask as rle

from manyseg.data.window import Window

if TYPE_CHECKING:
    from jaxtyping import Bool

__all__ = ["Outline", "pixels", "unpacked"]

Outline: TypeAlias = dict[str, Any]
"""The pixels of an object as pycocotools' run lengths, `size` and `counts`; `said` may be a Verdict on its drawing."""


def pixels(outline: Outline, window: Window | None) -> Bool[np.ndarray, "h w"]:
    """Return which pixels of a window, or of the whole image, are the object's."""
    if window is None:
        whole: np.ndarray = rle.decode(outline).astype(bool)
        return whole
    height = outline["size"][0]
    text = outline["counts"]
    counts = unpacked(text.decode() if isinstance(text, bytes) else text)
    assert counts is not None
    # Runs go down the columns, of background and object in turn: those of the window's columns, at their full height.
    first, last = window.left * height, (window.left + window.width) * height
    ends = counts.cumsum()
    run, stop = np.searchsorted(ends, [first, last - 1], side="right")
    lengths = np.diff(np.concatenate([[first], ends[run:stop], [last]]))
    inside = np.repeat(np.arange(run, stop + 1) % 2 == 1, lengths).reshape(window.width, height)
    return inside[:, window.top : window.top + window.height].T


def unpacked(text: str) -> np.ndarray | None:
    """Unpack COCO's text of run lengths: 5 bits a character; from the fourth on, differences to the last but one."""
    codes = np.frombuffer(text.encode("latin-1", "replace"), np.uint8).astype(np.int64) - 48
    if not len(codes):
        return np.zeros(0, np.int64)
    ends = np.flatnonzero((codes & 32) == 0)
    if codes.min() < 0 or codes.max() > 63 or not len(ends) or ends[-1] != len(codes) - 1:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 8:  # More than 45 bits.
        return None
    numbers = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = (codes[ends] & 16) != 0
    numbers[negative] -= 1 << (5 * (ends - starts + 1))[negative]
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
