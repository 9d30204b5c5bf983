"""What a frozen trunk gives for the images of an evaluation, kept for the next one: it is the same every time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["FeatureCache"]

MEMORY = 2 << 30
"""Bytes of features that a process keeps at most."""


class FeatureCache:
    """The outputs of `trunk` by its inputs, as long as no weight of it learns; on the host, up to `memory` bytes.

    Inputs are recognised by a hash of their content, so that windows, scales and flips need no care, and a batch that
    was not seen before is computed. What does not fit any more is computed every time: images come in a cycle, in which
    what is thrown away would always be what comes next.
    """

    def __init__(self, trunk: nn.Module, memory: int = MEMORY) -> None:
        self.trunk, self.free = trunk, memory
        self._known: dict[bytes, list[Tensor]] = {}

    @contextmanager
    def used(self) -> Iterator[None]:
        """Take the trunk's outputs from what is kept while the block runs, and keep those that are new."""
        if any(p.requires_grad for p in self.trunk.parameters()):
            yield
            return
        forward = self.trunk.forward
        self.trunk.forward = lambda image: self._found(forward, image)
        try:
            yield
        finally:
            del self.trunk.forward

    def _found(self, forward: Any, image: Tensor) -> Sequence[Tensor]:
        content = image.detach().cpu().contiguous()
        key = hashlib.blake2b(content.view(torch.uint8).numpy().data, digest_size=16)
        autocast = torch.get_autocast_dtype(image.device.type) if torch.is_autocast_enabled(image.device.type) else None
        key.update(f"{tuple(image.shape)} {image.dtype} {autocast}".encode())
        if (known := self._known.get(key.digest())) is not None:
            return [t.to(image.device, copy=True) for t in known]
        out = cast(Sequence[Tensor], forward(image))
        size = sum(t.numel() * t.element_size() for t in out)
        if size <= self.free:
            self.free -= size
            self._known[key.digest()] = [t.detach().to("cpu", copy=True) for t in out]
        return out
