"""Runs in groups: the seeds of one recipe, or a model for each of several datasets; and their scores over seeds."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from manyseg.report.record import Record

__all__ = ["ELSEWHERE", "SEED", "SHARED", "Group", "Grouping", "Score", "group_runs"]

SEED = "seed"
"""The only key in which the recipes of one group may differ."""

SHARED = "mean (shared)"
"""The column of the mean over the datasets that all groups were trained on."""

ALONE = "one model a dataset"
"""The name of runs of one dataset each that are taken for one group."""

ELSEWHERE = ("data", "start")
"""Tables in which the recipes of such runs differ; steps too, which follow from the data."""


class Score(NamedTuple):
    """The scores of n runs: mean and sample standard deviation (n - 1), `spread`, which is None for a single run."""

    mean: float
    spread: float | None
    n: int

    def __str__(self) -> str:
        """Render in percent: `41.2 ± 0.6`."""
        return f"{100 * self.mean:.1f}" + (f" ± {100 * self.spread:.1f}" if self.spread is not None else "")


@dataclass(frozen=True)
class Group:
    """Runs whose recipes are equal but for the seed; or, of every dataset, a run of that dataset alone."""

    name: str
    runs: tuple[Record, ...]
    seeds: tuple[str, ...]
    scores: dict[str, Score]
    classes: dict[str, dict[str, Score]]

    @property
    def count(self) -> str:
        """The number of evaluated runs, and of all runs if some have no evaluation."""
        scored = sum(bool(run.scores) for run in self.runs)
        return str(scored) if scored == len(self.runs) else f"{scored} of {len(self.runs)}"

    def means(self) -> dict[str, dict[str, float]]:
        """Return the mean IoU of every class by column."""
        return {column: {name: s.mean for name, s in table.items()} for column, table in self.classes.items()}


class Grouping(NamedTuple):
    """The groups of some runs, in the order of their first run."""

    groups: tuple[Group, ...]
    shared: tuple[str, ...]
    """The datasets that all groups with scores were trained on."""
    left_out: tuple[str, ...]
    """The other datasets that some were trained on."""
    alone: bool
    """Whether one of the groups has a model for each dataset."""


def group_runs(records: Sequence[Record]) -> Grouping:
    """Take runs for one group whose recipes differ only in the seed, or that are each of another dataset alone."""
    groups_by_key: dict[str, list[Record]] = {}
    alone = _alone(records)
    for record in records:
        groups_by_key.setdefault(alone.get(record.folder) or _key(record), []).append(record)
    names = _names(list(groups_by_key.values()), [key in alone.values() for key in groups_by_key])
    entries = {key: _entries(runs, key in alone.values()) for key, runs in groups_by_key.items()}
    scored = [found for found in entries.values() if found]
    seen = [{n for run in found for n, e in run.items() if _column(n, e) == n} for found in scored]
    every = dict.fromkeys(n for found in scored for run in found for n in run if any(n in s for s in seen))
    shared = tuple(n for n in every if all(n in s for s in seen))
    groups = [
        _group(name, runs, entries[key], shared) for name, (key, runs) in zip(names, groups_by_key.items(), strict=True)
    ]
    left_out = tuple(n for n in every if n not in shared)
    return Grouping(tuple(groups), shared, left_out, bool(alone))


def _alone(records: Sequence[Record]) -> dict[Path, str]:
    """Return a common key for runs that differ in their data alone, of one dataset each, and not all the same."""
    found: dict[str, dict[Path, str]] = {}
    for record in records:
        sets = (record.recipe.get("data") or {}).get("sets") or []
        if len(sets) == 1:
            rest = {k: v for k, v in record.recipe.items() if k not in (SEED, *ELSEWHERE)}
            train = {k: v for k, v in (rest.get("train") or {}).items() if k != "steps"}
            key = json.dumps({**rest, "train": train}, sort_keys=True, default=str)
            found.setdefault(key, {})[record.folder] = str((sets[0].get("card"), sets[0].get("root")))
    several = {key: cards for key, cards in found.items() if len(set(cards.values())) > 1}
    return {folder: f"{ALONE} {key}" for key, cards in several.items() for folder in cards}


def _entries(runs: Sequence[Record], alone: bool) -> tuple[dict[str, dict[str, Any]], ...]:
    """Return what was scored, by dataset, for every seed; runs `alone` add up to one of all their datasets."""
    if not alone:
        return tuple(run.scores.get("datasets", {}) for run in runs if run.scores)
    by_seed: dict[str, dict[str, dict[str, Any]]] = {}
    for run in runs:
        own = {n: e for n, e in run.scores.get("datasets", {}).items() if _column(n, e) == n}
        by_seed.setdefault(str(run.recipe.get(SEED)), {}).update(own)
    return tuple(found for found in by_seed.values() if found)


def _column(dataset: str, entry: dict[str, Any]) -> str:
    """Return the column of a dataset's scores: its name where it was trained on, else with the protocol."""
    protocol = str(entry.get("protocol", "seen"))
    return dataset if protocol == "seen" else f"{dataset} ({protocol})"


def _key(record: Record) -> str:
    """Return a key of a recipe without its seed; a run without a recipe is a group of its own."""
    rest = {k: v for k, v in record.recipe.items() if k != SEED}
    return json.dumps(rest, sort_keys=True, default=str) if rest else str(record.folder.resolve())


def _group(
    name: str, runs: Sequence[Record], entries: tuple[dict[str, dict[str, Any]], ...], shared: Sequence[str]
) -> Group:
    values: dict[str, list[float]] = {}
    classes: dict[str, dict[str, list[float]]] = {}
    for datasets in entries:
        if shared and all(n in datasets for n in shared):
            found = [v for n in shared if isinstance(v := datasets[n].get("miou"), int | float)]
            if len(found) == len(shared):
                _add(values, SHARED, statistics.fmean(found))
        for dataset, entry in datasets.items():
            column = _column(dataset, entry)
            _add(values, column, entry.get("miou"))
            for label, score in (entry.get("classes") or {}).items():
                _add(classes.setdefault(column, {}), label, score.get("iou"))
    return Group(
        name,
        tuple(runs),
        tuple(dict.fromkeys(str(run.recipe.get(SEED, "?")) for run in runs)),
        {column: _score(found) for column, found in values.items()},
        {column: {label: _score(found) for label, found in table.items()} for column, table in classes.items()},
    )


def _add(values: dict[str, list[float]], key: str, value: Any) -> None:
    """Add a value if it is a finite number; that of an absent class or a missing evaluation is not."""
    if isinstance(value, int | float) and math.isfinite(value):
        values.setdefault(key, []).append(float(value))


def _score(values: Sequence[float]) -> Score:
    return Score(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def _names(groups: Sequence[Sequence[Record]], alone: Sequence[bool]) -> list[str]:
    """Name groups by their method; where several share it, by their folders without a trailing seed number.

    Those of a model for each dataset are called so.
    """
    methods = [ALONE if single else runs[0].method for runs, single in zip(groups, alone, strict=True)]
    folders = [runs[0].folder.resolve().name for runs in groups]
    short = [re.sub(r"[-_.]?(seed)?[-_.]?\d+$", "", name) or name for name in folders]
    out: list[str] = []
    for method, folder, stem in zip(methods, folders, short, strict=True):
        name = next(n for n, taken in ((method, methods), (stem, short), (folder, [])) if taken.count(n) <= 1)
        out.append(name if name not in out else f"{name} #{len(out) + 1}")
    return out
