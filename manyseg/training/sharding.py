"""A trunk that is divided among processes: its weights, their gradients and the optimizer's state.

The trunk alone is: it outweighs all else of a large model, and methods read and change parameters of their own between
steps. PyTorch's `fully_shard` (FSDP2; ZeRO stage 3, Rajbhandari et al. 2020) gathers a block while it is computed; all
other parameters are whole in every process, with DDP's mean of gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from manyseg.errors import UserError
from manyseg.methods.base import Method
from manyseg.training.options import TrainOptions

__all__ = [
    "can_shard",
    "check_sharding",
    "clip_gradients",
    "distributed_like",
    "gathered",
    "local",
    "shard",
    "whole_trunk",
]

LEAST = 1_000_000
"""Parameters of a part that is gathered for itself: smaller messages cost more time than they save memory."""


def can_shard() -> bool:
    """Say whether this torch can hold what it has gathered for a while: from 2.8 on."""
    from torch.distributed import fsdp

    return hasattr(fsdp.FSDPModule, "set_reshard_after_forward")


def check_sharding(options: TrainOptions, processes: int) -> None:
    """Raise UserError where `train.shard` cannot be followed."""
    if not options.shard:
        return
    if processes == 1:
        raise UserError(
            "train.shard divides the trunk among processes, and there is one; start several "
            "(torchrun --nproc-per-node N -m manyseg.cli train ...), or set train.shard = false"
        )
    if options.precision == "fp16":
        raise UserError('train.shard and train.precision = "fp16" do not go together; use "bf16"')
    if options.compile:
        raise UserError("train.shard and train.compile do not go together; set one of them to false")
    if not can_shard():
        raise UserError(f"train.shard needs torch 2.8 or newer, and this is {torch.__version__}; set it to false")


def shard(method: Method, device: torch.device) -> None:
    """Divide the method's trunk, which is on `device`, among all processes, and tell DDP to leave it out."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    trunk = method.pixel_encoder.backbone.net
    # A parameter is divided along its first axis, which another order of memory does not allow.
    trunk.to(memory_format=torch.contiguous_format)
    # A group of its own: DDP sends whenever its gradients are there, which may be before or after those of a block.
    mesh = DeviceMesh.from_group(cast(dist.ProcessGroup, dist.new_group()), device.type)
    for part in _parts(trunk):
        fully_shard(part, mesh=mesh)
    # The rest of the trunk stays whole from the forward to the backward pass: decoders use its last norm again.
    fully_shard(trunk, mesh=mesh, reshard_after_forward=False)
    names = [name for name, p in method.named_parameters() if isinstance(p, DTensor)]
    ddp: Any = DistributedDataParallel
    ddp._set_params_and_buffers_to_ignore_for_model(method, names)


@contextmanager
def whole_trunk(method: Method) -> Iterator[None]:
    """Hold the whole trunk in every process for a while, so that each may use it as often as it likes."""
    parts = [cast(Any, m) for m in method.pixel_encoder.backbone.net.modules() if hasattr(m, "unshard")]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not parts[0], recurse=False)


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process has, as a view."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return whole tensors; all processes have to call this. What was divided comes to the CPU of the first alone."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    out = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            whole = tensor.full_tensor().detach()
            tensor = whole.cpu() if first else whole.new_empty(0)
        out[name] = tensor
    return out


def distributed_like(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Divide whole tensors, which are the same in all processes, as those of the same name in `own` are."""
    out = dict(tensors)
    for name, mine in own.items():
        if isinstance(mine, DTensor) and name in out and out[name].shape == mine.shape:
            value = out[name].to(mine.device)
            out[name] = distribute_tensor(value, mine.device_mesh, mine.placements)
    return out


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> None:
    """Scale all gradients so that the norm of all, divided or not, is at most `limit`."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not any(isinstance(g, DTensor) for g in gradients):
        torch.nn.utils.clip_grad_norm_(parameters, limit)
        return
    squares = _square([local(g) for g in gradients if isinstance(g, DTensor)])
    dist.all_reduce(squares)
    norm = (squares + _square([g for g in gradients if not isinstance(g, DTensor)]).to(squares.device)).sqrt()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local(gradient).mul_(factor)


def _square(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    return torch.nn.utils.get_total_norm(tensors) ** 2 if tensors else torch.zeros(())


def _parts(trunk: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts that are gathered one by one, inner ones first: those of lists, of `LEAST` parameters or more."""
    taken: set[int] = set()
    for module in reversed(list(trunk.modules())):
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        for part in module:
            own = {id(p): math.prod(p.shape) for p in part.parameters() if id(p) not in taken}
            if sum(own.values()) >= LEAST:
                taken |= own.keys()
                yield part
