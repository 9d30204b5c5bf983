"""One pass of a method over labelled images, in eval mode: batches of equal sizes, each rank with its own images.

Axes: B images, H W native size.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Int, UInt64
from torch import Tensor

from manyseg.cores import READERS, readers
from manyseg.data import bands
from manyseg.data.annotation import Dense, Segments
from manyseg.data.files import DataError
from manyseg.data.folder import Folder
from manyseg.data.window import Window
from manyseg.errors import UserError
from manyseg.inference.encoded_images import EncodedImages, OutputSpace, images_at_once
from manyseg.inference.large_image import check_windows, label_rows
from manyseg.inference.options import Size, TestOptions
from manyseg.inference.resize import resize
from manyseg.methods.base import Method
from manyseg.progress import progress

__all__ = ["LabelledBatch", "all_reduce", "check_views", "image_hashes", "large_size", "visit_batches"]

log = logging.getLogger(__name__)
T = TypeVar("T")


class LabelledBatch(NamedTuple):
    """Images of one native size, or some rows of one too large for memory, with their true and predicted labels."""

    encoded: EncodedImages | None
    """The images, each view of which is encoded once at most; None for some rows of one."""
    labels: Int[Tensor, "B H W"]
    """The true class of every pixel, or IGNORE, on the method's device."""
    annotations: tuple[Dense | Segments, ...]
    """What was read for each image, at native size, on the CPU."""
    maps: Sequence[Int[Tensor, "B H W"]]
    """The label map of every image, in each of the spaces asked for."""

    def whole(self, what: str) -> EncodedImages:
        """Return the images, or raise UserError: of `what` is done with them parts would give something else."""
        if self.encoded is None:
            raise UserError(
                f"{what} of images this large cannot be had, as they are seen by windows; cut those of a split into "
                "tiles, and name it in statistics_split of the set"
            )
        return self.encoded


def visit_batches(
    method: Method,
    folder: Folder,
    outputs: Sequence[OutputSpace],
    options: TestOptions | None,
    visit: Callable[[LabelledBatch], None],
    skip_bad: bool = False,
    doing: str = "evaluating",
) -> tuple[str, ...]:
    """Call `visit` with every batch of this rank's images, with the method in eval mode and without gradients.

    Label maps are predicted in each of `outputs`. Large images of many bands are read and predicted by windows, and
    what was visited of one before it turns out to be damaged stays visited.
    The progress of the first rank is shown on stderr, with the word `doing`. Every file is read once. Returned are the
    ids of the images, of all ranks, that were left out with `skip_bad` because their files are at fault; each is
    logged. Raises UserError if pixels have no labels or every image is at fault, and without `skip_bad` DataError for
    the first image at fault, in all ranks alike.
    """
    options = (options or TestOptions()).of(folder.space.name)
    if folder.annotation not in ("dense", "segments"):
        raise UserError(
            f"'{folder.space.name}' is annotated with {folder.annotation}, evaluation needs a label for each pixel; "
            "give a split with masks"
        )
    skipped: list[int] = []

    def fault(index: int, error: UserError) -> None:
        if not skip_bad:
            raise error
        skipped.append(index)
        done()
        log.warning("skipped: %s", error)

    stopped: UserError | None = None
    rank, world = _place()
    share = len(range(rank, len(folder), world))
    try:
        with _eval_mode(method), progress(f"{doing} '{folder.space.name}'", share, shown=rank == 0) as done:
            sizes = _sizes(folder, fault)
            large = [i for i, size in sizes.items() if folder.by_windows and size[0] * size[1] >= bands.LARGE]
            for i in large:
                try:
                    for batch in _rows(method, folder, i, outputs, options):
                        visit(batch)
                except DataError as e:
                    fault(i, e)
                else:
                    done()
                del sizes[i]
            for samples in _batches(folder, sizes, options, method.device, fault):
                labels = torch.stack([sample.labels for sample in samples]).to(method.device, non_blocking=True).long()
                image = torch.stack([sample.image for sample in samples])
                images = EncodedImages(method, image, options, _size(labels))
                annotations = tuple(sample.annotation for sample in samples)
                visit(LabelledBatch(images, labels, annotations, images.label_maps(outputs)))
                for _ in samples:
                    done()
    except UserError as e:
        stopped = e
    outcomes = _gather((skipped, stopped))
    for _, error in outcomes:
        if error is not None:
            raise error
    ids = tuple(folder.ids[i] for i in sorted(index for found, _ in outcomes for index in found))
    if len(ids) == len(folder):
        raise UserError(
            f"dataset '{folder.space.name}': all {len(ids)} images are bad, so none is skipped; correct them "
            "(`manyseg data` names each fault)"
        )
    return ids


def large_size(folder: Folder) -> Size | None:
    """Return the (height, width) of the first image that is only seen by windows, or None."""
    for index in range(len(folder)) if folder.by_windows else ():
        with suppress(DataError):  # If it matters, it comes up again with its image.
            if folder.is_large(index):
                return folder.size(index)
    return None


def check_views(folders: Iterable[Folder], options: TestOptions) -> None:
    """Raise UserError where a folder has an image that is only seen by windows, and `options` name none."""
    for folder in folders:
        if (size := large_size(folder)) is not None:
            check_windows(size, options.of(folder.space.name))


def image_hashes(folder: Folder) -> UInt64[np.ndarray, " N"]:
    """Return a hash of the path of every image, by which the same image is recognised in another folder."""
    paths = (os.path.realpath(folder.image_path(i)) for i in range(len(folder)))
    digests = b"".join(hashlib.blake2b(os.fsencode(path), digest_size=8).digest() for path in paths)
    return np.frombuffer(digests, np.uint64)


class _Sample(NamedTuple):
    image: Tensor
    """UInt8[3, h, w], at the input size of the network for the whole image."""
    labels: Int[Tensor, "H W"]
    annotation: Dense | Segments


def _read(folder: Folder, index: int, options: TestOptions) -> _Sample:
    sample = folder.read(index, options.input_size)
    assert isinstance(sample.annotation, Dense | Segments)
    annotation = type(sample.annotation)(*(t.as_subclass(Tensor) for t in sample.annotation))
    labels = annotation.labels
    return _Sample(resize(sample.image.as_subclass(Tensor), options.input_size(_size(labels))), labels, annotation)


def _sizes(folder: Folder, fault: Callable[[int, UserError], None]) -> dict[int, Size]:
    """Read the (height, width) of this rank's images; an image at fault is given to `fault`, and left out."""
    rank, world = _place()
    with suppress(UserError):  # If it matters, it comes up again with its image.
        folder.prepare()  # Before there are threads, two of which would read the annotation file into one place.
    sizes: dict[int, Size] = {}
    for i in range(rank, len(folder), world):
        try:
            sizes[i] = folder.size(i)
        except UserError as e:
            fault(i, e)
    return sizes


def _rows(
    method: Method, folder: Folder, index: int, outputs: Sequence[OutputSpace], options: TestOptions
) -> Iterator[LabelledBatch]:
    """Yield an image that is too large for memory from top to bottom, some rows at a time."""
    with folder.windows(folder.files(index)) as image:
        top, (_, width) = 0, image.size

        def read(*place: int) -> Tensor:
            return image.pixels(Window(*place))

        for maps in label_rows(method, read, image.size, outputs, options):
            height = len(maps[0])
            annotation = image.annotation(Window(top, 0, height, width))
            assert isinstance(annotation, Dense | Segments)
            labels = annotation.labels.as_subclass(Tensor)[None].to(method.device).long()
            yield LabelledBatch(None, labels, (annotation,), [found[None] for found in maps])
            top += height


def _batches(
    folder: Folder,
    sizes: dict[int, Size],
    options: TestOptions,
    device: torch.device,
    fault: Callable[[int, UserError], None],
) -> Iterator[list[_Sample]]:
    """Yield images of known `sizes` in batches of one size; an image at fault is given to `fault`, and left out."""
    batches: list[list[int]] = []
    for (height, width), group in groupby(sorted(sizes, key=lambda i: sizes[i]), key=lambda i: sizes[i]):
        indices, limit = list(group), images_at_once(device, options.input_size((height, width)))
        batches += [indices[i : i + limit] for i in range(0, len(indices), limit)]
    with readers() as pool:
        ahead: deque[list[tuple[int, Future[_Sample]]]] = deque()
        queued = 0
        for batch in batches:
            ahead.append([(i, pool.submit(_read, folder, i, options)) for i in batch])
            queued += len(batch)
            # At least one batch is read while the method works on another; of small batches more are read in advance.
            while len(ahead) > 1 and queued > 2 * READERS:
                queued -= len(ahead[0])
                yield from _finished(folder, ahead.popleft(), fault)
        while ahead:
            yield from _finished(folder, ahead.popleft(), fault)


def _finished(
    folder: Folder, batch: list[tuple[int, Future[_Sample]]], fault: Callable[[int, UserError], None]
) -> Iterator[list[_Sample]]:
    """Yield the images of a batch that could be read, if there are any."""
    samples = []
    for index, future in batch:
        try:
            with folder.named(index):
                samples.append(future.result())
        except UserError as e:
            fault(index, e)
    if samples:
        yield samples


@contextmanager
def _eval_mode(method: Method) -> Iterator[None]:
    """Put the method into eval mode without gradients, then restore the mode of each module: some may be frozen."""
    modes = [(module, module.training) for module in method.modules()]
    method.eval()
    try:
        # Not torch.inference_mode: what a method caches here may be used in training later.
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _size(labels: Int[Tensor, "*B H W"]) -> Size:
    return labels.shape[-2], labels.shape[-1]


def _place() -> tuple[int, int]:
    """Return this process's rank and the number of ranks."""
    return (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _gather(value: T) -> list[T]:
    """Return the values of all ranks, in all of them."""
    if not _distributed():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return cast(list[T], values)


def all_reduce(totals: Collection[Tensor]) -> None:
    """Add up tensors over all ranks, in place, in one message for each dtype."""
    if not _distributed():
        return
    for dtype in (torch.int64, torch.float64):
        if part := [t for t in totals if t.dtype == dtype]:
            flat = torch.cat([t.flatten() for t in part])
            dist.all_reduce(flat)
            for t, values in zip(part, torch.split(flat, [t.numel() for t in part]), strict=True):
                t.copy_(values.view_as(t))
