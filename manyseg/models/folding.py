"""Batch norms folded into the convolutions that feed them: the same network with fewer passes over memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights

__all__ = ["fold_batch_norms"]

TOLERANCE = 1e-3
"""Outputs may differ by this part of their largest value: rounding differs, on a GPU with 10 bits of mantissa."""


@torch.no_grad()
def fold_batch_norms(network: nn.Module, image: Tensor) -> int:
    """Fold the batch norms of a network in eval mode into convolutions, in place; return how many.

    It computes the same from then on, and cannot be trained as it was. Which convolution feeds which norm is seen in
    one pass of `image`, a batch. Where outputs differ afterwards, as where more than a norm reads a convolution's
    output, everything is left as it was.
    """
    norms = {m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and _stands_alone(m)}
    if not norms:
        return 0
    expected, pairs = _watched(network, image, norms)
    names = {module: name for name, module in network.named_modules()}
    before = []
    for conv, norm in pairs:
        parent, _, name = names[norm].rpartition(".")
        owner = network.get_submodule(parent)
        before.append((conv, conv.weight, conv.bias, owner, name, norm))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        setattr(owner, name, _after(norm))
    if all(_close(a, b) for a, b in zip(expected, _tensors(network(image)), strict=True)):
        return len(pairs)
    for conv, weight, bias, owner, name, norm in reversed(before):
        conv.weight, conv.bias = weight, bias
        setattr(owner, name, norm)
    return 0


def _stands_alone(norm: nn.BatchNorm2d) -> bool:
    """Say whether a norm is only a factor and a term for each channel, perhaps with timm's activation after it."""
    kind = type(norm) is nn.BatchNorm2d or (hasattr(norm, "drop") and hasattr(norm, "act"))
    return kind and not norm.training and norm.running_var is not None


def _after(norm: nn.BatchNorm2d) -> nn.Module:
    return nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))


def _watched(
    network: nn.Module, image: Tensor, norms: set[nn.BatchNorm2d]
) -> tuple[list[Tensor], list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """Return the output for an image, and each convolution and norm that work once, the norm on the other's output."""
    makers: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: Counter[nn.Module] = Counter()

    def made(conv: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        calls[conv] += 1
        makers[id(output)] = conv, output  # Kept, so that no other tensor has its number.

    def read(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        calls[norm] += 1
        if (maker := makers.get(id(inputs[0]))) is not None:
            found.append((maker[0], norm))

    hooks = [m.register_forward_hook(made) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [norm.register_forward_pre_hook(read) for norm in norms]
    try:
        # In-place layers behind may change what is kept, but not what is returned here.
        output = [t.clone() for t in _tensors(network(image))]
    finally:
        for hook in hooks:
            hook.remove()
    return output, [(conv, norm) for conv, norm in found if calls[conv] == calls[norm] == 1]


def _tensors(output: Tensor | Iterable[object]) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
        return
    for part in output:
        yield from _tensors(part)  # type: ignore[arg-type]


def _close(a: Tensor, b: Tensor) -> bool:
    most = float(a.abs().amax()) if a.numel() else 0.0
    return a.shape == b.shape and (not a.numel() or float((a - b).abs().amax()) <= TOLERANCE * most)
