"""Images to label maps, segments and scores: every view of an image is encoded once for all label spaces.

A view is the image at one scale, mirrored or not, whole or a window of it. Scores are kept at feature resolution;
nothing of size D x H x W is ever held. This module knows a method only as a `Predictor`, so that evaluation, statistics
and prediction share it.

Axes: B images, D classes, U unified nodes, h w feature resolution, H W native size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from manyseg.inference.hierarchical import deepest
from manyseg.inference.label_maps import argmax_map
from manyseg.inference.options import SegmentOptions, Size, TestOptions
from manyseg.inference.resize import resize
from manyseg.inference.segments import SegmentMap
from manyseg.inference.windows import cells, weights, windows
from manyseg.labels import LabelSpace, Relation
from manyseg.labels.hierarchy import Hierarchy
from manyseg.models import Features

__all__ = ["EncodedImages", "OutputSpace", "Predictor", "images_at_once"]

BATCH_PIXELS = {"cpu": 1 << 17, "cuda": 1 << 22}
"""Pixels of one batch, by device: larger ones leave a processor's cache and take 1.4 times as long."""


def images_at_once(device: torch.device, size: Size) -> int:
    """Return how many images of a (height, width) are best encoded together."""
    return max(1, BATCH_PIXELS.get(device.type, BATCH_PIXELS["cuda"]) // (size[0] * size[1]))


class Predictor(Protocol):
    """What this module needs of a method; the meaning of each is described in `manyseg.methods.base.Method`."""

    @property
    def pixel_encoder(self) -> Callable[[Tensor], Features]:
        """The network from images to features."""

    @property
    def device(self) -> torch.device:
        """The device that images are moved to."""

    @property
    def align_corners(self) -> bool:
        """Whether scores are upsampled with corner cells at corner pixels."""

    @property
    def hierarchy(self) -> Hierarchy | None:
        """The hierarchy that the method can predict at any level of, if there is one."""

    def predict(
        self, features: Features, space: LabelSpace, relation: Bool[Tensor, "D U"] | None = None
    ) -> Float[Tensor, "B D h w"]:
        """Return scores in a label space."""

    def log_shares(self, space: LabelSpace, relation: Bool[Tensor, "D U"] | None = None) -> Float[Tensor, " D"]:
        """Return the log of the share of pixels that each class had in training."""

    def segments(self, features: Features, space: LabelSpace, size: Size, options: SegmentOptions) -> list[SegmentMap]:
        """Return things and stuff of every image."""


class OutputSpace(NamedTuple):
    """A label space to predict in; one that was not trained on needs its relation to the unified nodes."""

    space: LabelSpace
    relation: Relation | None = None


class EncodedImages:
    """A batch of images of one size, and a method's predictions for them; nothing is encoded before it is needed.

    `image` may have been decoded at a reduced size; `size` is the native (height, width), that of all results, and by
    default the image's own. It is moved to the method's device. The method should be in eval mode; results carry no
    gradients.

    Label maps are averaged over all views of `options`. Segments, and label maps of the method's hierarchy, come from
    the whole image alone: windows, flips and other scales are left out. Where the whole image is a view too, it is
    encoded once for all of them. Request all label maps in one call: the features of several views are not kept.
    """

    def __init__(
        self,
        method: Predictor,
        image: UInt8[Tensor, "B 3 _ _"],
        options: TestOptions | None = None,
        size: Size | None = None,
    ) -> None:
        self.method, self.options = method, options or TestOptions()
        self.size = size or (image.shape[-2], image.shape[-1])
        # This memory order makes convolutions a fifth faster on a CPU, whatever that of the weights is.
        self._image = image.to(method.device, non_blocking=True, memory_format=torch.channels_last)
        self._features: Features | None = None

    @property
    def features(self) -> Features:
        """The features of the whole image, at the size that the options give it."""
        # No cached_property: before Python 3.12 it lets one thread at a time compute, of all images.
        if self._features is None:
            with torch.no_grad():
                self._features = self.method.pixel_encoder(self._resized(1.0))
        return self._features

    @torch.no_grad()
    def scores(self, outputs: Sequence[OutputSpace]) -> list[Float[Tensor, "B _ h w"]]:
        """Return scores at feature resolution in each of the spaces; -inf excludes a class.

        With a single view they are the method's own, else the softmax averaged over the views, on the grid of the
        largest scale: 4 bytes x D x h x w for each space, whatever the native size's memory would be.
        """
        return list(self._each_scores(outputs))

    def confidences(self, scores: Float[Tensor, "B D h w"]) -> Float[Tensor, "B h w"]:
        """Return the probability of the most probable class of each cell, of what `scores` has returned for a space.

        It is 0 where every class is excluded.
        """
        best = scores.amax(1)
        if self._averaged:
            return best.clamp(min=0)  # These are probabilities already.
        return (best - scores.logsumexp(1)).exp().nan_to_num(0.0)

    @torch.no_grad()
    def label_maps(
        self, outputs: Sequence[OutputSpace], scores: Sequence[Float[Tensor, "B _ h w"]] | None = None
    ) -> list[Int[Tensor, "B H W"]]:
        """Return the best class of every pixel in each of the spaces, or IGNORE where every class is excluded.

        In the space of the method's hierarchy it is the deepest class that is more probable than not. `scores` are
        those that `scores` has returned for the same spaces, where it was called before.
        """
        plain = [output for output in outputs if not self._is_hierarchy(output)]
        if scores is None:
            known = self._each_scores(plain)
        else:
            known = (s for s, output in zip(scores, outputs, strict=True) if not self._is_hierarchy(output))
        return [
            self._deepest() if self._is_hierarchy(o) else argmax_map(next(known), self.size, self.method.align_corners)
            for o in outputs
        ]

    @torch.no_grad()
    def segments(self, space: LabelSpace) -> list[SegmentMap]:
        """Return the things and the stuff of every image, for methods that find segments."""
        return self.method.segments(self.features, space, self.size, self.options)

    @property
    def _averaged(self) -> bool:
        """Whether scores are averages of several parts or views: then they are probabilities."""
        return len(self.options.views) > 1 or self.options.window is not None

    def _is_hierarchy(self, output: OutputSpace) -> bool:
        return self.method.hierarchy is not None and output.space == self.method.hierarchy.space

    def _deepest(self) -> Int[Tensor, "B H W"]:
        hierarchy = self.method.hierarchy
        assert hierarchy is not None
        # A class is never less probable than the classes it contains, so that an argmax would never choose a finer one.
        scores = self._predict(self.features, OutputSpace(hierarchy.space))
        return deepest(scores, hierarchy, self.size, self.method.align_corners)

    def _resized(self, scale: float) -> UInt8[Tensor, "B 3 _ _"]:
        return resize(self._image, self.options.input_size(self.size, scale))

    def _predict(self, features: Features, output: OutputSpace) -> Float[Tensor, "B D h w"]:
        relation = output.relation
        if self._is_hierarchy(output):
            assert self.method.hierarchy is not None
            relation = self.method.hierarchy.leaves
        related = None if relation is None else torch.from_numpy(relation)
        scores = self.method.predict(features, output.space, related).float()
        strength = self.options.logit_adjustment
        # Classes of a hierarchy contain each other: their probabilities are thresholds, not rivals.
        if strength and not self._is_hierarchy(output):
            scores = scores - strength * self.method.log_shares(output.space, related)[:, None, None]
        return scores

    def _each_scores(self, outputs: Sequence[OutputSpace]) -> Iterator[Float[Tensor, "B _ h w"]]:
        """Yield what `scores` returns, with a single view one space at a time."""
        if not outputs:
            return
        if self._averaged:
            yield from self._averages(outputs)
            return
        scale, _ = self.options.views[0]
        features = self.features if scale == 1 else self.method.pixel_encoder(self._resized(scale))
        for output in outputs:
            yield self._predict(features, output)

    def _averages(self, outputs: Sequence[OutputSpace]) -> list[Float[Tensor, "B _ h w"]]:
        """Average the softmax over all views; a pixel at which all classes are excluded in all views is -inf."""
        totals: list[Tensor] = []
        views = self.options.views
        for scale, flip in views:
            parts = self._probabilities(scale, flip, outputs)
            if flip:
                parts = [part.flip(-1) for part in parts]
            if not totals:
                totals = parts
                continue
            for total, part in zip(totals, parts, strict=True):
                total += F.interpolate(part, total.shape[-2:], mode="bilinear", align_corners=False)
        return [torch.where(t.sum(1, keepdim=True) > 0, t / len(views), -math.inf) for t in totals]

    def _probabilities(
        self, scale: float, flip: bool, outputs: Sequence[OutputSpace]
    ) -> list[Float[Tensor, "B _ h w"]]:
        """Return the softmax of one view in each space, blended over windows; 0 where all classes are excluded."""
        if self.options.window is None and (scale, flip) == (1, False):
            return self._softmax(self.features, outputs)
        image = self._resized(scale)
        image = image.flip(-1) if flip else image
        if self.options.window is None:
            return self._softmax(self.method.pixel_encoder(image), outputs)
        sums: list[Tensor] = []
        for place in windows((image.shape[-2], image.shape[-1]), self.options.window, self.options.overlap):
            parts = self._softmax(self.method.pixel_encoder(image[place]), outputs)
            inside, grid = cells(place, parts[0], (image.shape[-2], image.shape[-1]))
            if not sums:
                sums = [part.new_zeros(*part.shape[:2], *grid) for part in parts]
                total_weight = parts[0].new_zeros(*grid)
            weight = weights(parts[0])
            for total, part in zip(sums, parts, strict=True):
                total[inside] += weight * part
            total_weight[inside] += weight
        return [total / total_weight for total in sums]

    def _softmax(self, features: Features, outputs: Sequence[OutputSpace]) -> list[Float[Tensor, "B _ h w"]]:
        return [self._predict(features, output).softmax(1).nan_to_num(0.0) for output in outputs]
