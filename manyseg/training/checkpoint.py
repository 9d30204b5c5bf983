"""Folders of tensors that survive a kill, a full disk and a damaged file.

A checkpoint is a folder of safetensors files and `state.json`, which holds what is no tensor, the SHA-256 of every
file, and that of all this itself. It is written aside (`<name>.writing`), synced, and renamed; the one before it stays
as `<name>.previous`, and is read where the newer one is damaged. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from manyseg import atomic
from manyseg.errors import UserError

__all__ = ["ANEW", "Checkpoint", "discard_previous", "fingerprint", "read", "recover", "write"]

ANEW = "in another --out, and with --from this run if it has a checkpoint"
"""How a training that failed goes on with other options: `--resume` takes the options that it began with."""


class Checkpoint(NamedTuple):
    """A folder whose files have been found whole; `state` is what was saved beside the tensors."""

    folder: Path
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Load `<name>.safetensors` into CPU memory; raises UserError if there is none or it holds no tensors."""
        path = self.folder / f"{name}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as e:
            raise UserError(f"{path}: not a file of tensors ({' '.join(str(e).split())}); train the run again") from e

    def load_into(
        self, module: torch.nn.Module, placed: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    ) -> None:
        """Load the file `model`, after `placed` has put its tensors where the module's are.

        Raises UserError where names or shapes differ, or a weight is not finite.
        """
        tensors = self.tensors("model")
        bad = [k for k, v in tensors.items() if v.is_floating_point() and not bool(v.isfinite().all())]
        if bad:
            raise UserError(
                f"{self.folder}: {len(bad)} of {len(tensors)} weights are not finite, the first is {bad[0]}; train the "
                "run again, with a lower train.lr or with train.clip"
            )
        try:
            module.load_state_dict(placed(tensors) if placed else tensors)
        except RuntimeError as e:
            reason = " ".join(str(e).split())[:240]
            raise UserError(
                f"{self.folder}: the weights do not fit this recipe's model ({reason}); restore the recipe, or train "
                "the run again"
            ) from e


def write(folder: Path, files: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Replace the checkpoint in `folder` by `<name>.safetensors` for every entry of `files`, and `state`.

    The folder is either the old or the new checkpoint at any moment, but for an instant in which only `previous` is
    there. Raises UserError when the files cannot be written; the old checkpoint is then untouched.
    """
    aside = folder.with_name(folder.name + ".writing")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        sums = {}
        for name, tensors in files.items():
            path = aside / f"{name}.safetensors"
            # Copies: safetensors refuses tensors that share memory, as tied weights do.
            save_file({k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}, path)
            atomic.sync(path)
            sums[path.name] = _sum(path)
        record = {"sha256": sums, "state": dict(state)}
        atomic.write(aside / "state.json", json.dumps({**record, "own_sha256": _own_sum(record)}, indent=1))
        for name in sums:
            # Some releases of safetensors make files that only their owner may read.
            shutil.copymode(aside / "state.json", aside / name)
        atomic.sync(aside)
        if folder.exists():
            shutil.rmtree(previous(folder), ignore_errors=True)
            folder.rename(previous(folder))
        aside.rename(folder)
        atomic.sync(folder.parent)
    except (OSError, SafetensorError, UserError) as e:
        shutil.rmtree(aside, ignore_errors=True)
        old = folder if folder.exists() else previous(folder)
        kept = f"the earlier one in {old.name}/ is intact" if old.exists() else "there is no earlier one"
        raise UserError(
            f"{folder}: cannot write the checkpoint ({e.__cause__ or e}); {kept}; make room on the disk, then go on "
            "with --resume"
        ) from e


def previous(folder: Path) -> Path:
    """Return where the checkpoint before the one in `folder` is kept."""
    return folder.with_name(folder.name + ".previous")


def read(folder: Path) -> Checkpoint:
    """Read a checkpoint's state and check its files; raises UserError naming the missing or damaged one."""
    try:
        record = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        own = record.pop("own_sha256")
        if own != _own_sum(record):
            raise ValueError("SHA-256")
        sums, state = dict(record["sha256"]), dict(record["state"])
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder}: there is no checkpoint (no state.json); train the run, or go on with it by --resume"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UserError(f"{folder / 'state.json'}: damaged ({e.__class__.__name__}); train the run again") from e
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; the checkpoint is not whole, train the run again")
        if _sum(path) != expected:
            raise UserError(
                f"{path}: damaged or cut off ({path.stat().st_size} bytes, SHA-256 is not the one in state.json); "
                f"train the run again"
            )
    return Checkpoint(folder, state)


def fingerprint(folder: Path) -> str:
    """Return the checksum of a checkpoint's state, which has those of its files: equal only for equal checkpoints."""
    return str(json.loads((folder / "state.json").read_text(encoding="utf-8"))["own_sha256"])


def recover(folder: Path) -> str:
    """Make `folder` the newest whole checkpoint, if there is one; return what was wrong with a newer one, or "".

    Raises UserError when there are checkpoints and none of them is whole. One process only may call this.
    """
    older, wrong = previous(folder), ""
    if folder.exists():
        try:
            read(folder)
            return ""
        except UserError as e:
            if not older.exists():
                raise
            wrong = str(e)
    if older.exists():
        # A kill between the two renames of `write` leaves only the previous one, whole: then nothing was wrong.
        read(older)
        shutil.rmtree(folder, ignore_errors=True)
        older.rename(folder)
    return wrong


def discard_previous(folder: Path) -> None:
    """Remove the spare checkpoint that `write` left."""
    shutil.rmtree(previous(folder), ignore_errors=True)


def _own_sum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
