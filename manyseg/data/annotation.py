"""What a dataset says about its images: dense masks, segments, boxes or tags.

Every kind is a NamedTuple of tensors, once for a single image (no leading axis) and, stacked by `stack`, for a batch.
Tensors of one value per pixel are `tv_tensors.Mask`, so torchvision's transforms move image and annotation together.

Axes: B images, D classes, N segments, boxes or tags of an image (padded with IGNORE in a batch), H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors

from manyseg.data.encodings import Found, ImageTags, ObjectBoxes
from manyseg.labels import IGNORE

__all__ = ["KINDS", "Annotation", "Boxes", "Dense", "Segments", "Tags", "as_annotation", "convert", "stack"]


class Dense(NamedTuple):
    """One class, or IGNORE, for every pixel."""

    labels: Int[Tensor, "*B H W"]

    def soft(self, classes: int, size: tuple[int, int]) -> Float[Tensor, "B D h w"]:
        """Return what each pixel may be as weights that sum to 1, or to 0 where nothing is known.

        The labels of a batch are averaged from H x W to `size`, over the pixels that have one.
        """
        valid = self.labels != IGNORE
        onehot = F.one_hot(self.labels.clamp(min=0).long(), classes).movedim(-1, 1).float() * valid[:, None]
        q = F.adaptive_avg_pool2d(onehot, size)
        return q / q.sum(1, keepdim=True).clamp(min=1e-12)


class Segments(NamedTuple):
    """Masks with classes and identity: things are one segment an instance, stuff one segment a class.

    `ids` holds the position of each pixel's segment in `classes`, or IGNORE. Where the source's instances overlap,
    the smaller one is on top.
    """

    ids: Int[Tensor, "*B H W"]
    classes: Int[Tensor, "*B N"]

    @property
    def labels(self) -> Int[Tensor, "*B H W"]:
        """The class of every pixel: these segments seen as a dense annotation."""
        # A last entry IGNORE is what ids == IGNORE (-1) reads.
        table = F.pad(self.classes, (0, 1), value=IGNORE)
        index = torch.where(self.ids < 0, table.shape[-1] - 1, self.ids).long()
        return table.gather(-1, index.flatten(-2)).view(index.shape)

    def soft(self, classes: int, size: tuple[int, int]) -> Float[Tensor, "B D h w"]:
        """Return the weights of the segments' classes, as `Dense.soft`."""
        return Dense(self.labels).soft(classes, size)


class Boxes(NamedTuple):
    """Axis-aligned boxes (x0, y0, x1, y1 in pixels, ends exclusive) with classes, of an image of size (H, W)."""

    boxes: Float[Tensor, "*B N 4"]
    classes: Int[Tensor, "*B N"]
    extent: Int[Tensor, "*B 2"]

    def soft(self, classes: int, size: tuple[int, int]) -> Float[Tensor, "B D h w"]:
        """Return normalised counts of the boxes that cover each cell's centre; 0 under no box (HTSS).

        Painted with four corner increments a box and two cumulative sums: O(boxes + cells).
        """
        b, (h, w) = len(self.boxes), size
        scale = torch.tensor([w, h], device=self.boxes.device) / self.extent.flip(-1)
        # In units of cells, the centre i + 0.5 lies in [x0, x1) iff ceil(x0 - 0.5) <= i < ceil(x1 - 0.5).
        edges = torch.ceil(self.boxes.view(b, -1, 2, 2) * scale[:, None, None] - 0.5).long()
        (x0, y0), (x1, y1) = edges[..., 0, :].unbind(-1), edges[..., 1, :].unbind(-1)
        x0, x1, y0, y1 = x0.clamp(0, w), x1.clamp(0, w), y0.clamp(0, h), y1.clamp(0, h)
        keep = (self.classes != IGNORE).float()
        plane = torch.arange(b, device=keep.device)[:, None] * classes + self.classes.clamp(min=0)
        count = torch.zeros(b * classes * (h + 1) * (w + 1), device=keep.device)
        for y, x, sign in ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1)):
            count.index_add_(0, ((plane * (h + 1) + y) * (w + 1) + x).flatten(), (sign * keep).flatten())
        q = count.view(b, classes, h + 1, w + 1).cumsum(2).cumsum(3)[..., :h, :w]
        return q / q.sum(1, keepdim=True).clamp(min=1)


class Tags(NamedTuple):
    """Classes that occur somewhere in the image."""

    classes: Int[Tensor, "*B N"]

    def soft(self, classes: int, size: tuple[int, int]) -> Float[Tensor, "B D h w"]:
        """Return uniform weights over the image's tags, the same at every pixel (HTSS); 0 without a tag."""
        q = torch.zeros(len(self.classes), classes + 1, device=self.classes.device)
        q.scatter_(1, torch.where(self.classes < 0, classes, self.classes).long(), 1.0)
        q = q[:, :classes]
        return (q / q.sum(1, keepdim=True).clamp(min=1))[..., None, None].expand(-1, -1, *size)


Annotation: TypeAlias = Dense | Segments | Boxes | Tags

KINDS: dict[str, type[Dense] | type[Segments] | type[Boxes] | type[Tags]] = {
    "dense": Dense,
    "segments": Segments,
    "boxes": Boxes,
    "tags": Tags,
}
"""The names that cards and recipes use."""


def as_annotation(found: Found, kind: str, things: Bool[np.ndarray, " D"]) -> Annotation:
    """Return what an encoding has read of one image as tensors, weakened to `kind`, a key of KINDS."""
    if isinstance(found, ImageTags):
        return Tags(torch.from_numpy(found.classes))
    if isinstance(found, ObjectBoxes):
        boxes = Boxes(torch.from_numpy(found.boxes), torch.from_numpy(found.classes), torch.tensor(found.size))
        return convert(boxes, kind)
    if kind in ("dense", "tags"):
        return convert(Dense(tv_tensors.Mask(torch.from_numpy(found.labels()))), kind)
    ids, classes = found.segments(things)
    return convert(Segments(tv_tensors.Mask(torch.from_numpy(ids)), torch.from_numpy(classes)), kind)


def convert(annotation: Annotation, kind: str) -> Annotation:
    """Weaken one image's annotation to another kind: segments to boxes or masks, anything to tags.

    Raises ValueError where the information is not there (a mask has no instances, a box no outline).
    """
    if isinstance(annotation, KINDS[kind]):
        return annotation
    if kind == "dense" and isinstance(annotation, Segments):
        return Dense(annotation.labels)
    if kind == "boxes" and isinstance(annotation, Segments):
        return _boxes(annotation)
    if kind == "tags":
        classes = annotation.labels if isinstance(annotation, Dense) else annotation.classes
        return Tags(torch.unique(classes[classes != IGNORE]).long())
    raise ValueError(f"a {type(annotation).__name__.lower()} annotation cannot be turned into {kind}")


def _boxes(segments: Segments) -> Boxes:
    found, classes = [], []
    for i, c in enumerate(segments.classes.tolist()):
        rows, cols = torch.nonzero(segments.ids == i, as_tuple=True)
        if len(rows) and c != IGNORE:
            found.append([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1])
            classes.append(c)
    return Boxes(
        torch.tensor(found, dtype=torch.float32).view(-1, 4),
        torch.tensor(classes, dtype=torch.int64),
        torch.tensor(segments.ids.shape[-2:]),
    )


def stack(annotations: Sequence[Annotation]) -> Annotation:
    """Stack the annotations of several images, all of one kind; ragged lists are padded with IGNORE."""
    kind = type(annotations[0])
    columns = zip(*annotations, strict=True)
    return kind(*(_pad([torch.as_tensor(t) for t in column]) for column in columns))


def _pad(tensors: list[Tensor]) -> Tensor:
    length = max(t.shape[0] for t in tensors) if tensors[0].ndim else 0
    if all(t.shape == tensors[0].shape for t in tensors):
        return torch.stack([t.as_subclass(Tensor) for t in tensors])
    out = tensors[0].new_full((len(tensors), length, *tensors[0].shape[1:]), IGNORE)
    for row, t in zip(out, tensors, strict=True):
        row[: len(t)] = t
    return out
