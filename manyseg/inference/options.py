"""How images are given to a network at test time: at which sizes, mirrored or not, whole or in windows.

Recipes are checked against it, and nothing here loads a deep-learning framework.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["GRID", "PHOTOS", "SegmentOptions", "Size", "TestOptions"]

Size = tuple[int, int]
"""(height, width) in pixels."""

GRID = 32
"""Windows and their steps are multiples of this many pixels, so that the cells of all windows fall on one grid."""


class SegmentOptions(BaseModel):
    """How masks become segments that do not overlap; read by methods that tell objects apart."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mask_threshold: float = Field(
        default=0.8, ge=0, le=1, description="A mask is kept where its class is more probable than this."
    )
    overlap_threshold: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="A segment is dropped where it has less than this share of its own mask's pixels.",
    )
    segment_rule: Literal["maskformer", "inside"] = Field(
        default="maskformer",
        description="Pixels of a segment: maskformer: all that its mask wins, those outside of it too, as published; "
        "inside: those of them inside of its mask, so that some pixels are nobody's.",
    )


class TestOptions(SegmentOptions):
    """How an image is given to a network at test time; by default once, the whole image at native size."""

    # pytest collects classes by this name.
    __test__: ClassVar[bool] = False

    window: tuple[Annotated[int, Field(gt=0, le=1 << 16)], Annotated[int, Field(gt=0, le=1 << 16)]] | None = None
    """(height, width) of sliding windows, multiples of 32; None takes the whole image."""
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 1 / 3
    """Least share of a window that the next window covers too."""
    flip: bool = False
    """Also predict the mirrored image, and average."""
    scales: Annotated[tuple[Annotated[float, Field(gt=0.001, le=16)], ...], Field(min_length=1, max_length=64)] = (1.0,)
    """Sizes of the image relative to the native one."""
    max_side: Annotated[int, Field(gt=0)] | None = None
    """Images with a longer side are made smaller for the network; label maps stay at native size."""

    @field_validator("window")
    @classmethod
    def _on_grid(cls, window: Size | None) -> Size | None:
        if window is not None and any(side % GRID for side in window):
            raise ValueError(f"window is {window[0]}x{window[1]}; both sides must be multiples of {GRID}")
        return window

    def input_size(self, native: Size, scale: float = 1.0) -> Size:
        """Return the (height, width) at which an image of the native size is given to the network."""
        if self.max_side is not None:
            scale *= min(1.0, self.max_side / max(native))
        grid = 1 if self.window is None else GRID
        return _side(native[0], scale, grid), _side(native[1], scale, grid)

    @property
    def views(self) -> tuple[tuple[float, bool], ...]:
        """The (scale, mirrored) of every view of an image, the largest scale first."""
        flips = (False, True) if self.flip else (False,)
        return tuple((scale, flip) for scale in sorted(self.scales, reverse=True) for flip in flips)


def _side(side: int, scale: float, grid: int) -> int:
    return max(1, math.ceil(round(side * scale) / grid)) * grid


PHOTOS = TestOptions(max_side=2048)
"""For photos of any size: it bounds memory to some hundred megabytes, and keeps sizes near those of training."""
