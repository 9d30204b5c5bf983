"""Reading weights and giving them to a network: what fits, what does not, and one line that says so.

Nothing that a file holds is run: safetensors has no code, checkpoints of torch are read as tensors only, and of an
archive of TorchScript only its tensors are read.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from manyseg.errors import UserError

__all__ = ["Fit", "fit", "is_torchscript", "load_in_order", "read_tensors"]

IN_FOLDER = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
"""Files of weights in a folder as the Hugging Face hub has them, the preferred first."""

NESTED = ("state_dict", "model")
"""Keys under which training programs keep the weights."""

SHOWN = 4
"""How many names a message lists of each kind."""


class Fit(NamedTuple):
    """How given tensors fit a network: by name, with their shapes."""

    matched: dict[str, Tensor]
    wanted: int
    missing: tuple[str, ...]
    """Names of the network that nothing was given for."""
    unfit: tuple[str, ...]
    """Names that were given in another shape, with both shapes."""
    unexpected: tuple[str, ...]
    """Names that were given and that the network does not have, such as those of a classifier."""

    def __str__(self) -> str:
        """Say in one line what was loaded, and what was not and why."""
        parts = [f"{len(self.matched)} of {self.wanted} tensors loaded"]
        for what, names in (
            ("missing in it", self.missing),
            ("of another shape", self.unfit),
            ("not used, as the network has none of the name", self.unexpected),
        ):
            if names:
                parts.append(f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)})")
        return "; ".join(parts)


def fit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Fit:
    """Compare tensors by name; dots and underscores are the same (`stages.0` is timm's `stages_0` of features)."""
    plain = {k.replace(".", "_"): k for k in given}
    names = {k: plain[key] for k in wanted if (key := k.replace(".", "_")) in plain}
    unfit = [k for k, name in names.items() if given[name].shape != wanted[k].shape]
    return Fit(
        {k: given[name] for k, name in names.items() if given[name].shape == wanted[k].shape},
        len(wanted),
        tuple(k for k in wanted if k not in names and not k.endswith("num_batches_tracked")),
        tuple(f"{k} {list(given[names[k]].shape)}, not {list(wanted[k].shape)}" for k in unfit),
        tuple(sorted(set(given) - set(names.values()))),
    )


def read_tensors(path: Path, key: str) -> dict[str, Tensor]:
    """Read named tensors of a safetensors file, a checkpoint of torch, a TorchScript archive, or a hub folder.

    `key` is the recipe's key in messages. Raises UserError where there is no such file, or it cannot be read.
    """
    if path.is_dir():
        found = [path / name for name in IN_FOLDER if (path / name).is_file()]
        if not found:
            raise UserError(f"{key}: the folder {path} has no weights; it needs one of {', '.join(IN_FOLDER)}")
        path = found[0]
    if not path.is_file():
        raise UserError(f"{key}: there is no weights file {path}; give the path of one, or true or false")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if is_torchscript(path):
            return _read_torchscript(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # pickle, zip, safetensors and torch each have errors of their own for a broken file
        reason = " ".join(str(e).split())[:100]
        raise UserError(
            f"{key}: {path} is no readable weights file ({type(e).__name__}: {reason}); fetch or save it again"
        ) from e
    for inner in NESTED:
        state = state[inner] if isinstance(state, dict) and isinstance(state.get(inner), dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{key}: {path} holds no dictionary of tensors; save a state dict")
    return state


def load_in_order(net: nn.Module, path: Path, key: str) -> str:
    """Load tensors whose names differ but whose order is the full model's; what is left over is the classifier."""
    given = list(read_tensors(path, key).values())
    wanted = net.state_dict()
    pairs = list(zip(wanted, given, strict=False))
    if len(pairs) < len(wanted) or any(wanted[k].shape != v.shape for k, v in pairs):
        raise UserError(f"{key}: {path} is not the file it should be; reinstall the package that holds it")
    net.load_state_dict(dict(pairs))
    return f"{len(wanted)} of {len(wanted)} tensors loaded; {len(given) - len(wanted)} of the classifier not used"


def is_torchscript(path: Path) -> bool:
    """Say whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[1:2] == ["constants.pkl"] for name in archive.namelist())


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read the parameters and buffers of a TorchScript archive, by their places in it, without running its code."""
    with zipfile.ZipFile(path) as archive:
        (data,) = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        with archive.open(data) as file:
            root = _TensorUnpickler(file, archive, data.split("/")[0]).load()
    return dict(_tensors(root, ""))


def _tensors(node: Any, prefix: str) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for name, value in getattr(node, "fields", {}).items():
        if isinstance(value, Tensor):
            found.append((prefix + name, value))
        elif isinstance(value, _Object):
            found += _tensors(value, f"{prefix}{name}.")
    return found


class _Object:
    """A module of an archive: its fields, and nothing of its class."""

    fields: Mapping[str, Any]

    def __setstate__(self, state: Any) -> None:
        self.fields = state if isinstance(state, dict) else {}


class _TensorUnpickler(pickle.Unpickler):
    """Reads the pickle of a TorchScript archive: it makes tensors and empty objects, whatever the pickle asks for."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file)
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Object
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return torch._utils._rebuild_tensor_v2
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name.endswith("Storage"):
            return name
        if module == "torch.jit._pickle":
            return _first
        raise pickle.UnpicklingError(f"{module}.{name} is neither a tensor nor a module")

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, _, count = pid
        dtype = cast(torch.dtype, getattr(torch, STORAGES[kind]))
        raw = bytearray(self.archive.read(f"{self.root}/data/{key}"))
        values = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        if len(values) != int(count):
            raise pickle.UnpicklingError(f"tensor {key} has {len(values)} values, not {count}")
        return torch.storage.TypedStorage(  # type: ignore[no-untyped-call]
            wrap_storage=values.untyped_storage(), dtype=dtype, _internal=True
        )


STORAGES = {
    "FloatStorage": "float32", "HalfStorage": "float16", "DoubleStorage": "float64", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
"""Type of a tensor's values by the name that pickles have for it."""


def _first(value: Any, *_: Any) -> Any:
    """Return a list or tuple that an archive restores the type of."""
    return value
