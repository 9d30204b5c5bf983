"""How images are given to a network at test time: at which sizes, mirrored or not, whole or in windows.

Recipes are checked against it, and nothing here loads a deep-learning framework.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

__all__ = ["GRID", "PHOTOS", "DecisionOptions", "SegmentOptions", "Size", "TestOptions", "ViewOptions"]

Size = tuple[int, int]
"""(height, width) in pixels."""

WindowSide = Annotated[int, Field(gt=0, le=1 << 16)]

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


class DecisionOptions(SegmentOptions):
    """How scores become classes, and masks segments."""

    logit_adjustment: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="This part of the log of a class's share of the training's pixels is subtracted from its "
        "log-probability, so that rare classes are called more often: 0 as the network says, 1 as if all were frequent "
        "alike. About 0.2 raises the mean IoU; confidences are those after it.",
    )


class ViewOptions(DecisionOptions):
    """How an image is given to a network at test time; by default once, the whole image at native size."""

    window: tuple[WindowSide, WindowSide] | None = Field(
        default=None,
        description="(height, width) of sliding windows, multiples of 32; without it the whole image is seen at once.",
    )
    overlap: float = Field(
        default=1 / 3, ge=0, le=0.9, description="Least share of a window that the next window covers too."
    )
    flip: bool = Field(default=False, description="Also predict the mirrored image, and average.")
    scales: tuple[Annotated[float, Field(gt=0.001, le=16)], ...] = Field(
        default=(1.0,), min_length=1, max_length=64, description="Sizes of the image; scores are averaged over them."
    )
    short_side: int | None = Field(
        default=None,
        gt=0,
        le=1 << 14,
        description="Pixels of the shorter side at scale 1, for images of any size; without it scale 1 is native size. "
        "Label maps are at native size in any case.",
    )
    max_side: int | None = Field(
        default=None, gt=0, description="Images whose longer side would be larger are made smaller for the network."
    )

    @field_validator("window")
    @classmethod
    def _on_grid(cls, window: Size | None) -> Size | None:
        if window is not None and any(side % GRID for side in window):
            raise ValueError(f"window is {window[0]}x{window[1]}; both sides must be multiples of {GRID}")
        return window

    def input_size(self, native: Size, scale: float = 1.0) -> Size:
        """Return the (height, width) at which an image of the native size is given to the network."""
        zoom = 1.0 if self.short_side is None else self.short_side / min(native)
        if self.max_side is not None:
            zoom = min(zoom, self.max_side / max(native))
        scale *= zoom
        grid = 1 if self.window is None else GRID
        return _side(native[0], scale, grid), _side(native[1], scale, grid)

    @property
    def views(self) -> tuple[tuple[float, bool], ...]:
        """The (scale, mirrored) of every view of an image, the largest scale first."""
        flips = (False, True) if self.flip else (False,)
        return tuple((scale, flip) for scale in sorted(self.scales, reverse=True) for flip in flips)


class TestOptions(ViewOptions):
    """How images are given to a network at test time, and which datasets' images are seen otherwise.

    The keys beside `sets` are for all images; a table in `sets`, such as `[test.sets.street]`, has those that are
    other for the images of one dataset, named as its card is.
    """

    # pytest collects classes by this name.
    __test__: ClassVar[bool] = False

    sets: dict[str, ViewOptions] = Field(
        default={},
        description="By dataset, the keys that are its own; photos that are predicted in its labels are seen likewise.",
    )

    @field_serializer("sets")
    def _only_own(self, sets: dict[str, ViewOptions]) -> dict[str, Any]:
        # A default written out would, read back, replace the common value.
        return {name: own.model_dump(mode="json", exclude_unset=True) for name, own in sets.items()}

    def of(self, dataset: str) -> TestOptions:
        """Return how the images of one dataset are seen: the common keys, with its own in place."""
        if not self.sets:
            return self
        own = self.sets.get(dataset, ViewOptions())
        return self.model_copy(update={"sets": {}} | {key: getattr(own, key) for key in own.model_fields_set})


def _side(side: int, scale: float, grid: int) -> int:
    return max(1, math.ceil(round(side * scale) / grid)) * grid


PHOTOS = TestOptions(max_side=2048)
"""For photos of any size: it bounds memory to some hundred megabytes, and keeps sizes near those of training."""
