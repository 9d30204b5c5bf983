"""Which tensors of a trunk are trained: all, those of the last layers, low-rank additions, or none.

What is not trained has no gradient, and is in eval mode whatever the mode of the rest: its batch norms use and keep the
statistics that they came with, and it drops nothing.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from pydantic import AfterValidator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from manyseg.errors import UserError

__all__ = ["LoRA", "Trainable", "freeze_batch_norms", "hold_frozen", "is_lora", "parse", "restrict"]

RANK = 8
"""Rank of `lora` without a number."""

ATTENTION = re.compile(r"(^|\.)(attn|attention)\.(qkv|q_proj|k_proj|v_proj|proj)$")
"""The linear layers of attention, as timm names them."""


class _Kind(NamedTuple):
    name: str
    number: int = 0


def parse(text: str) -> _Kind:
    """Read `all`, `none`, `last:K` or `lora:R`; raises ValueError that says what is valid."""
    found = re.fullmatch(r"(all|none|lora)|(last|lora):([1-9]\d{0,5})", text)
    if found is None:
        raise ValueError('give "all", "none", "last:4" (the last 4 layers) or "lora:8" (low-rank, of rank 8)')
    return _Kind(found[1], RANK) if found[1] else _Kind(found[2], int(found[3]))


def _checked(text: str) -> str:
    parse(text)
    return text


Trainable = Annotated[str, AfterValidator(_checked)]
"""Text that `parse` reads."""


class LoRA(nn.Module):
    """A weight plus a product of two thin matrices (Hu et al. 2022), which is zero before it is trained.

    Registered as a parametrisation of the weight: some attention of timm reads the weight and does not call the layer.
    """

    def __init__(self, weight: Float[Tensor, "O I"], rank: int) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.down = nn.Parameter(torch.randn(rank, inputs) / math.sqrt(inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
        """Return the sum; it does not depend on the rank how fast it is learned (alpha is the rank)."""
        return weight + self.up @ self.down


def is_lora(name: str) -> bool:
    """Say whether the parameter called `name` is one of a `LoRA`."""
    return ".parametrizations.weight.0." in f".{name}"


def restrict(net: nn.Module, trainable: str, layers: dict[str, int], model: str) -> None:
    """Leave gradients to what is trained; `layers` is the number of the layer of every parameter, from 0.

    Raises UserError for more layers than `model` has, and where it has no attention for LoRA.
    """
    kind = parse(trainable)
    if kind.name == "all":
        return
    net.requires_grad_(False)
    if kind.name == "lora":
        _add_lora(net, kind.number, model)
    if kind.name == "last":
        count = max(layers.values()) + 1
        if kind.number > count:
            raise UserError(f"model.trainable is 'last:{kind.number}', but '{model}' has {count} layers; give fewer")
        for name, p in net.named_parameters():
            p.requires_grad_(layers[name] >= count - kind.number)


def freeze_batch_norms(net: nn.Module) -> None:
    """Fix weights and statistics of all batch norms."""
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.requires_grad_(False)


def hold_frozen(net: nn.Module) -> None:
    """Put every part into eval mode that has weights or statistics, but nothing that is trained."""
    for module in net.modules():
        has_some = any(True for _ in module.parameters()) or any(True for _ in module.buffers())
        if module.training and has_some and not any(p.requires_grad for p in module.parameters()):
            module.eval()


def _add_lora(net: nn.Module, rank: int, model: str) -> None:
    found = [m for name, m in net.named_modules() if ATTENTION.search(name) and isinstance(m, nn.Linear)]
    if not found:
        raise UserError(f"model.trainable is 'lora', but '{model}' has no attention; give all, none or last:4")
    for linear in found:
        parametrize.register_parametrization(linear, "weight", LoRA(linear.weight, rank))
