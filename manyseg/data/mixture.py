"""Many datasets become training steps: a step is a tuple of batches, each of one dataset.

What a step holds is a pure function of (seed, step, rank, world): it depends neither on the number of workers nor on
where a run was resumed. Nothing is counted on the way; the place of a step in every dataset's walk is computed.
"""

from __future__ import annotations

import hashlib
import logging
import signal
from collections.abc import Generator, Sequence
from contextlib import suppress
from fractions import Fraction
from heapq import heapify, heapreplace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from manyseg.data.batch import Batch, Sample, collate
from manyseg.data.class_balance import ClassBalance, Walk
from manyseg.data.folder import Folder
from manyseg.data.options import DataOptions
from manyseg.data.quick_check import inspections
from manyseg.data.transforms import Augment
from manyseg.errors import UserError

__all__ = ["MixRow", "Mixture"]

log = logging.getLogger(__name__)

PATIENCE = 100
"""Bad files in a row, in shuffled order, after which a dataset is taken to be broken as a whole."""


class MixRow(NamedTuple):
    """What a dataset contributes, for printing before training; `share` is of all images, `epochs` of its own."""

    dataset: str
    images: int
    per_step: float
    share: float
    epochs: float
    crop: tuple[int, int]
    augmentation: str


class Mixture(Dataset[tuple[Batch, ...]]):
    """Training steps: `mixture[step]` is this rank's part of the step, a batch for each dataset that has a share in it.

    `folders` are the training splits in the order of `options.sets`. Every dataset walks through epochs of its own,
    each in a fresh order, or drawn by class (`class_balance`). With mix = "per_step" a dataset has that many images in
    every step, over all ranks, 1 where no set says how many; else it has its share of `batch` after any number of
    steps, as near as an order of whole images can be, and maybe no image in a single step. So it is too where ranks
    cannot share the images of every dataset evenly, but those of a step: then `per_step` is a mean over steps. Rank r
    of `world` takes every world-th image from the r-th on. Raises UserError for a step that ranks cannot share evenly,
    and for two datasets of one name.
    """

    def __init__(
        self, folders: Sequence[Folder], options: DataOptions, *, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.folders, self.options, self.seed, self.rank, self.world = tuple(folders), options, seed, rank, world
        self.augments = [Augment(options.augment(s)) for s in options.sets]
        names = [f.space.name for f in self.folders]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"two sets are called '{name}'; give one of the cards another name")
        counts = tuple(s.per_step or 1 for s in options.sets)
        total = options.batch or sum(counts)
        if total % world:
            raise UserError(
                f"a step has {total} images, which {world} processes cannot share evenly; make "
                f"{'the sum of per_step' if options.batch is None else 'batch'} a multiple of {world}"
            )
        self._per_step = counts if options.batch is None and not any(n % world for n in counts) else None
        """The images of each dataset in every step, or None where `_total` is shared out by `_weights`."""
        self._total = total
        self._weights = counts if options.batch is None else _weights([len(f) for f in self.folders], options)
        self.expected = [total * w / sum(self._weights) for w in self._weights]
        """Images of each dataset in a step on average, over all ranks."""
        # One flag a file, in memory shared with the workers, so that the main process can report.
        self._bad = [torch.zeros(len(f), dtype=torch.bool) for f in self.folders]
        for flags in self._bad:
            flags.share_memory_()  # type: ignore[no-untyped-call]
        # The dataset and image that each worker reads, shared likewise: known even when it dies.
        self._in_hand = torch.full((max(1, options.workers), 2), -1)
        self._in_hand.share_memory_()  # type: ignore[no-untyped-call]
        self._orders: dict[int, tuple[int, Walk]] = {}
        self._balances: dict[int, ClassBalance] = {}

    @classmethod
    def open(cls, options: DataOptions, base: Path, *, seed: int, rank: int = 0, world: int = 1) -> Mixture:
        """Open the training sets of a recipe; `base` is the recipe's folder, that relative paths start from."""
        return cls([s.open_train(base) for s in options.sets], options, seed=seed, rank=rank, world=world)

    def __getitem__(self, step: int) -> tuple[Batch, ...]:
        batches = []
        starts, stops = self.images_before(step), self.images_before(step + 1)
        for d, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            samples = [self._sample(d, position) for position in range(start + self.rank, stop, self.world)]
            if samples:
                batches.append(collate(self.folders[d].space, samples, self.options.sets[d].weight, self.expected[d]))
        return tuple(batches)

    def images_before(self, step: int) -> list[int]:
        """Return how many images of each dataset the steps before `step` hold, over all ranks."""
        if self._per_step is not None:
            return [step * n for n in self._per_step]
        # Shared out in groups of one image a rank, so that all ranks have batches of the same datasets, as losses need
        # that are means over all ranks. The groups, and so the order, depend on the number of ranks.
        return [self.world * n for n in _apportion(step * self._total // self.world, self._weights)]

    def loader(
        self, start: int, stop: int, *, workers: int | None = None, pin_memory: bool = False
    ) -> Generator[tuple[Batch, ...]]:
        """Read steps `start` to `stop` ahead in worker processes (by default as many as the options say), in order.

        Whatever a worker raises as a UserError is raised here, in the step that it belongs to.
        """
        workers = self.options.workers if workers is None else workers
        if workers:
            for folder in self.folders:
                if folder.card.annotations is not None:
                    with suppress(UserError):  # If it matters, it comes up again in its step.
                        folder.read_annotation(0)  # Parses the JSON once, before workers are forked.
        # torch gives each worker one thread of its own accord.
        steps: DataLoader[tuple[Batch, ...] | str] = DataLoader(
            _Guarded(self),
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            worker_init_fn=_ignore_signals,
        )
        items = iter(steps)
        while True:
            try:
                item = next(items)
            except StopIteration:
                return
            except RuntimeError as e:
                if "DataLoader worker" not in str(e):
                    raise
                raise UserError(self._in_hand_text(" ".join(str(e).split()))) from e
            if isinstance(item, str):
                raise UserError(item)
            yield item

    def _in_hand_text(self, reason: str) -> str:
        """Say which images the workers had in hand when one of them died."""
        pairs = dict.fromkeys((d, index) for d, index in self._in_hand.tolist() if d >= 0)
        images = [str(self.folders[d].image_path(index)) for d, index in pairs]
        return (
            f"a process that reads images died ({reason}); the files that the processes had in hand: "
            f"{', '.join(images)}; check them with `manyseg data`, or use fewer data.workers if memory ran out"
        )

    def describe(self, steps: int) -> list[MixRow]:
        """List what each dataset contributes to the first `steps` steps."""
        counts = self.images_before(steps)
        return [
            MixRow(
                folder.space.name,
                len(folder),
                count / max(steps, 1),
                count / max(sum(counts), 1),
                count / len(folder),
                augment.options.crop,
                augment.options.summary(),
            )
            for folder, count, augment in zip(self.folders, counts, self.augments, strict=True)
        ]

    def skipped(self) -> list[tuple[str, str]]:
        """List (dataset, id) of the bad files skipped so far, in this process and in its workers."""
        return [
            (folder.space.name, folder.ids[index])
            for folder, bad in zip(self.folders, self._bad, strict=True)
            for index in bad.nonzero().flatten().tolist()
        ]

    def count(self) -> None:
        """Count the labels of the datasets whose images are drawn by class; what was counted before is kept."""
        for d, (folder, augment) in enumerate(zip(self.folders, self.augments, strict=True)):
            temperature = augment.options.class_temperature
            if temperature > 1 and d not in self._balances:
                self._balances[d] = ClassBalance.of([i.pixels for i in inspections(folder)], temperature)

    def _sample(self, d: int, position: int) -> Sample:
        """Return the image at a position of a dataset's endless walk."""
        folder, name = self.folders[d], self.folders[d].space.name
        epoch, place = divmod(position, len(folder))
        walk = self._walk(d, epoch)
        error: UserError | None = None
        tries = min(len(folder), PATIENCE)
        for attempt in range(tries):
            at = (place + attempt) % len(folder)
            index, wanted = int(walk.images[at]), int(walk.classes[at])
            if (worker := get_worker_info()) is not None and worker.id < len(self._in_hand):
                self._in_hand[worker.id] = torch.tensor([d, index])
            # A stand-in is varied in its own way: it may meet itself in the batch.
            key = (self.seed, name, epoch, index, attempt)
            # Drawn by class, an image may come several times in an epoch.
            generator = _generator(*key) if wanted < 0 else _generator(*key, place)
            try:
                return self.augments[d](folder, index, generator, None if wanted < 0 else wanted)
            except UserError as e:
                if not self.options.skip_bad:
                    raise
                error = e
                if not self._bad[d][index]:
                    self._bad[d][index] = True
                    log.warning("skipped: %s", e)
        raise UserError(f"dataset '{name}': {tries} files in a row are bad, so none is skipped; the last: {error}")

    def _walk(self, d: int, epoch: int) -> Walk:
        """Return the order of a dataset's images in an epoch; only the last one is kept, for memory's sake."""
        if self._orders.get(d, (None,))[0] != epoch:
            self.count()
            images, generator = len(self.folders[d]), _generator(self.seed, self.folders[d].space.name, epoch)
            if d in self._balances:
                walk = self._balances[d].walk(images, generator)
            else:
                walk = Walk(torch.randperm(images, generator=generator), torch.full((images,), -1))
            self._orders[d] = epoch, walk
        return self._orders[d][1]


class _Guarded(Dataset[tuple[Batch, ...] | str]):
    """Steps, with a UserError's message as a value: torch would bury it in the traceback of a worker."""

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture

    def __getitem__(self, step: int) -> tuple[Batch, ...] | str:
        try:
            return self.mixture[step]
        except UserError as e:
            return str(e)


def _ignore_signals(worker: int) -> None:
    """Leave it to the main process to end this worker: a signal to the whole group is for the main one to answer."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _as_it_is(item: Any) -> Any:
    return item


def _weights(sizes: Sequence[int], options: DataOptions) -> tuple[int, ...]:
    """Return the datasets' shares as whole numbers, size^(1 / temperature) to 1 in 10^9, for exact arithmetic."""
    temperature = {"proportional": 1.0, "sqrt": 2.0}.get(options.mix, options.temperature or 1.0)
    shares = [n ** (1 / temperature) for n in sizes]
    return tuple(max(1, round(1e9 * share / max(shares))) for share in shares)


def _apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Share out `total` images by Webster's method: image k of a dataset of share p is due at time (k + 1/2) / p.

    The counts sum to `total`, never fall as it grows, and stay as near to their shares as an order of images can.
    """
    # What is due at this time is no more than `total`, as a dataset is at most 1/2 image ahead of its share; the rest
    # comes one by one.
    time = max(0, total - len(weights))
    counts = [w * time // sum(weights) for w in weights]
    due = [(Fraction(2 * n + 1, w), d) for d, (n, w) in enumerate(zip(counts, weights, strict=True))]
    heapify(due)
    for _ in range(total - sum(counts)):
        d = due[0][1]
        counts[d] += 1
        heapreplace(due, (Fraction(2 * counts[d] + 1, weights[d]), d))
    return counts


def _generator(*key: object) -> torch.Generator:
    """Seed a generator by a key, independently of the others' keys, of the process and of the machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
