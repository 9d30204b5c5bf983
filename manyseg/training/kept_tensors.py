"""How much memory a network's backward pass needs: what autograd keeps of a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["kept_bytes"]


@contextmanager
def kept_bytes(network: nn.Module) -> Iterator[Callable[[], int]]:
    """Yield what returns the bytes that were kept for the backward pass in this block, without the weights.

    To be asked while the results are alive, so that no address is counted twice.
    """
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield lambda: sum(kept.values())
