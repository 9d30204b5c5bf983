"""One pass of a method over labelled images: eval mode, equal sizes together, files read ahead, ranks apart.

Axes: B images, D classes of the asked space, H W native size.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Int, UInt8, UInt64
from torch import Tensor

from manyseg.data.annotation import Dense, Segments
from manyseg.data.folder import Folder
from manyseg.errors import UserError
from manyseg.inference.label_maps import Size, TestOptions, predict_map, resize
from manyseg.labels import LabelSpace, Relation
from manyseg.methods.base import Method

__all__ = [
    "Predict",
    "Visit",
    "all_reduce",
    "device_of",
    "image_hashes",
    "pass_over",
    "pass_over_segments",
    "predictor",
]

BATCH_PIXELS = {"cpu": 1 << 17, "cuda": 1 << 22}
"""Pixels of one batch, by device: larger ones leave a processor's cache and take 1.4 times as long."""

Visit = Callable[[UInt8[Tensor, "B 3 _ _"], Int[Tensor, "B H W"]], None]
"""Takes images, as the network is to see them, and their labels at native size, both on the method's device."""

Predict = Callable[[UInt8[Tensor, "B 3 _ _"], Size], Int[Tensor, "B H W"]]
"""Maps such images, and their native size, to label maps."""


def predictor(
    method: Method, space: LabelSpace, options: TestOptions | None, relation: Relation | None = None
) -> Predict:
    """Ask for the best class of every pixel in one of the method's spaces, or in another through its relation."""
    links = None if relation is None else torch.from_numpy(relation)
    return lambda image, size: predict_map(lambda view: method.predict(view, space, links), image, options, size)


def pass_over(method: Method, folder: Folder, options: TestOptions | None, visit: Visit) -> None:
    """Show this rank's share of a folder to `visit`, batch by batch, the method in eval mode and without gradients.

    Raises UserError if the folder has no label a pixel, DataError if a file is at fault.
    """
    options, device = options or TestOptions(), device_of(method)
    if folder.annotation not in ("dense", "segments"):
        raise UserError(
            f"'{folder.space.name}' is annotated with {folder.annotation}, evaluation needs a label a pixel; "
            "give a split with masks"
        )
    with _frozen(method), _encoding_once(method):
        for image, truth in _batches(folder, options, BATCH_PIXELS.get(device.type, BATCH_PIXELS["cuda"])):
            # This memory order makes convolutions a fifth faster on a CPU, whatever that of the weights is.
            image = image.to(device, non_blocking=True, memory_format=torch.channels_last)
            visit(image, truth.to(device, non_blocking=True))


def pass_over_segments(
    method: Method,
    folder: Folder,
    options: TestOptions | None,
    visit: Callable[[UInt8[Tensor, "1 3 _ _"], Segments], None],
) -> None:
    """Show this rank's share of a folder of segments to `visit` as `pass_over` does, but image by image.

    Segments are at native size and stay on the CPU.
    """
    options, device = options or TestOptions(), device_of(method)
    rank, world = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    with _frozen(method):
        for index in range(rank, len(folder), world):
            sample = folder.read(index, options.input_size)
            assert isinstance(sample.annotation, Segments)
            truth = Segments(*(t.as_subclass(Tensor) for t in sample.annotation))
            image = resize(sample.image.as_subclass(Tensor), options.input_size(_size(truth.ids)))
            visit(image[None].to(device, memory_format=torch.channels_last), truth)


def image_hashes(folder: Folder) -> UInt64[np.ndarray, " N"]:
    """Return one number a path of an image, by which the same image is known again."""
    paths = (os.path.realpath(folder.image_path(i)) for i in range(len(folder)))
    digests = b"".join(hashlib.blake2b(os.fsencode(path), digest_size=8).digest() for path in paths)
    return np.frombuffer(digests, np.uint64)


def _batches(folder: Folder, options: TestOptions, pixels: int) -> Iterator[tuple[Tensor, Tensor]]:
    rank, world = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    sizes = {i: folder.size(i) for i in range(rank, len(folder), world)}
    batches: list[list[int]] = []
    for (height, width), group in groupby(sorted(sizes, key=lambda i: sizes[i]), key=lambda i: sizes[i]):
        indices, limit = list(group), max(1, pixels // (height * width))
        batches += [indices[i : i + limit] for i in range(0, len(indices), limit)]

    def read(index: int) -> tuple[Tensor, Tensor]:
        sample = folder.read(index, options.input_size)
        assert isinstance(sample.annotation, Dense | Segments)
        labels = sample.annotation.labels.as_subclass(Tensor)
        return resize(sample.image.as_subclass(Tensor), options.input_size(_size(labels))), labels

    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[list[Future[tuple[Tensor, Tensor]]]] = deque()
        queued = 0
        for batch in batches:
            ahead.append([pool.submit(read, i) for i in batch])
            queued += len(batch)
            # One batch at least is read while another is asked about; small ones are read further ahead.
            while len(ahead) > 1 and queued > 2 * workers:
                queued -= len(ahead[0])
                yield _stack(ahead.popleft())
        while ahead:
            yield _stack(ahead.popleft())


def _stack(futures: Sequence[Future[tuple[Tensor, Tensor]]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*(f.result() for f in futures), strict=True)
    return torch.stack(images), torch.stack(labels)


@contextmanager
def _frozen(method: Method) -> Iterator[None]:
    """Ask in eval mode and without gradients, then restore each module's own mode: parts may be frozen in training."""
    modes = [(module, module.training) for module in method.modules()]
    method.eval()
    try:
        # Not inference mode: what a method caches now may be used in training later.
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _encoding_once(method: Method) -> Iterator[None]:
    """Let all questions about one batch share its features: the network is by far the dearest part of an answer."""
    pixel_encoder = method.pixel_encoder
    # A compiled module has a `forward` of its own, which is to be put back.
    encode, own = pixel_encoder.forward, vars(pixel_encoder).get("forward")
    last: dict[str, object] = {}

    def forward(image: Tensor) -> object:
        if last.get("image") is not image:
            last.update(image=image, features=encode(image))
        return last["features"]

    vars(pixel_encoder)["forward"] = forward
    try:
        yield
    finally:
        del vars(pixel_encoder)["forward"]
        if own is not None:
            vars(pixel_encoder)["forward"] = own


def device_of(method: Method) -> torch.device:
    """Return where the method's parameters are."""
    return next(method.parameters()).device


def _size(labels: Int[Tensor, "*B H W"]) -> Size:
    return labels.shape[-2], labels.shape[-1]


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def all_reduce(totals: Collection[Tensor]) -> None:
    """Add up over ranks, in place, with one message a type of number."""
    if not _distributed():
        return
    for dtype in (torch.int64, torch.float64):
        if part := [t for t in totals if t.dtype == dtype]:
            flat = torch.cat([t.flatten() for t in part])
            dist.all_reduce(flat)
            for t, values in zip(part, torch.split(flat, [t.numel() for t in part]), strict=True):
                t.copy_(values.view_as(t))
