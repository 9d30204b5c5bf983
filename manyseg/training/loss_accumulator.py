"""Losses since the last line of the log, kept on the device until then: a step never waits for their numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.training.checkpoint import ANEW

__all__ = ["LossAccumulator"]


class LossAccumulator:
    """Collects every draw's losses; `close` means them over draws and processes, and starts anew."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self.images = 0

    def add(self, step: int, losses: Mapping[str, Tensor], batches: Sequence[Batch]) -> Float[Tensor, ""]:
        """Take in the losses of one draw of a step; return their sum, to be differentiated."""
        values = torch.stack([v.float() for v in losses.values()])
        self._entries.append(_Entry(step, tuple(losses), values.detach(), {b.space.name: b.ids for b in batches}))
        self.images += sum(len(b.ids) for b in batches)
        return values.sum()

    def close(self, gather: Callable[[Tensor], Tensor], process: int) -> tuple[float, dict[str, float]]:
        """Return the mean total and the mean of each loss, over all draws that had it.

        `gather` joins [1, N] of every process to [processes, N]. This waits for the device. Raises UserError for the
        first loss that is not finite, in all processes alike; only the process that had it can name the images.
        """
        table = gather(torch.cat([e.values for e in self._entries])[None]).double().cpu().numpy()
        self._check(table, process)
        totals: list[float] = []
        parts: dict[str, list[float]] = {}
        at, mean = 0, table.mean(0)
        for entry in self._entries:
            values = mean[at : at + len(entry.names)].tolist()
            at += len(entry.names)
            totals.append(sum(values))
            for name, value in zip(entry.names, values, strict=True):
                parts.setdefault(name, []).append(value)
        self._entries, self.images = [], 0
        return float(np.mean(totals)), {name: float(np.mean(v)) for name, v in parts.items()}

    def _check(self, table: Float[np.ndarray, "P N"], process: int) -> None:
        bad = ~np.isfinite(table)
        if not bad.any():
            return
        position = int(np.flatnonzero(bad.any(0))[0])
        where = int(np.flatnonzero(bad[:, position])[0])
        entry, name = [(entry, name) for entry in self._entries for name in entry.names][position]
        images = ", ".join(entry.ids.get(name.split("/")[0]) or [i for ids in entry.ids.values() for i in ids])
        raise UserError(
            f"step {entry.step}: loss '{name}' is not finite ({table[where, position]}; images: "
            f"{images if where == process else f'those of process {where}'}); nothing of it is saved; "
            f"correct their labels and go on with --resume; or lower train.lr, set train.clip or use bf16 for fp16, "
            f"{ANEW}"
        )


class _Entry(NamedTuple):
    step: int
    names: tuple[str, ...]
    values: Float[Tensor, " N"]
    ids: dict[str, tuple[str, ...]]
