"""The comparison of several runs: mean and spread over seeds, what classes gain and lose, how the recipes differ."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table

from manyseg.errors import UserError
from manyseg.report.change import Change, changes, points, to_markdown
from manyseg.report.record import Record, read_record
from manyseg.templates import render

__all__ = ["Comparison", "Score", "compare"]

SEED = "seed"
"""The only key in which the recipes of one group may differ."""

CAPTION = 8
"""The number of differing keys that are named in the terminal; Markdown and the page have all, with values."""

NONE = "—"

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
    """Runs whose recipes are equal but for the seed; or, of every dataset, a run of that dataset alone.

    `entries` are what scores.json says of the datasets, a mapping for each seed.
    """

    name: str
    runs: tuple[Record, ...]
    seeds: tuple[str, ...]
    entries: tuple[dict[str, dict[str, Any]], ...]
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


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, the columns of their scores, and the recipe keys in which the groups differ.

    A column is a dataset under a protocol, so that scores of different protocols are never in one column; the first,
    `mean (shared)`, is over the datasets that all groups were trained on, `shared`; `left_out` are the others.
    `differences[key]` has one value for each group.
    """

    groups: tuple[Group, ...]
    columns: tuple[str, ...]
    shared: tuple[str, ...]
    left_out: tuple[str, ...]
    differences: dict[str, tuple[str, ...]]

    @property
    def changes(self) -> dict[str, list[Change]]:
        """What every other group's classes have over those of the first group, by its name."""
        first, *others = self.groups
        found = {group.name: changes(first.means(), group.means()) for group in others}
        return {name: rows for name, rows in found.items() if rows}

    @property
    def result(self) -> str:
        """Say in one sentence what the best of the other groups has over the first one; "" if nothing is shared."""
        first, others = self.groups[0], [g for g in self.groups[1:] if SHARED in g.scores]
        if not others or SHARED not in first.scores:
            return ""
        best = max(others, key=lambda g: g.scores[SHARED].mean)
        ours, theirs = best.scores[SHARED], first.scores[SHARED]
        rows = [row for row in self.changes[best.name] if row.dataset in self.shared]
        gains = [c.difference for row in rows for c in row.classes]
        spread = max(ours.spread or 0.0, theirs.spread or 0.0)
        within = ", which is within the spread over seeds" if abs(ours.mean - theirs.mean) < spread else ""
        return (
            f"Over {_listed(self.shared)}, {best.name} has a mean mIoU of {ours}, {first.name} {theirs}: "
            f"{points(ours.mean - theirs.mean)} points{within}; {sum(g > 0 for g in gains)} of {len(gains)} "
            "classes gain."
        )

    @property
    def means_of(self) -> str:
        """Say which datasets the mean is over, and which are left out."""
        if not self.shared:
            return "No dataset was trained on by all of them, so there is no mean."
        out = f"; left out, as not all were trained on them: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{SHARED}: over {_listed(self.shared)}{out}."

    def to_markdown(self) -> str:
        """Render Markdown: scores in percent, the best of a column in bold; what classes gain and lose; the recipes."""
        lines = [_row(["run", "n", *self.columns]), _row(["---", "---:", *["---:"] * len(self.columns)])]
        for group in self.groups:
            cells = [
                f"**{text}**" if self.is_best(group, column) else text
                for column, text in zip(self.columns, self.cells(group), strict=True)
            ]
            lines.append(_row([group.name, group.count, *cells]))
        lines += ["", "mIoU in %; mean ± standard deviation over runs that differ in the seed only.", self.means_of, ""]
        for name, rows in self.changes.items():
            lines += [to_markdown(rows, self.groups[0].name, name), ""]
        if self.differences:
            lines += [_row(["recipe", *(g.name for g in self.groups)]), _row(["---"] * (len(self.groups) + 1))]
            lines += [_row([f"`{key}`", *values]) for key, values in self.differences.items()]
        lines += ["", self.result]
        return "\n".join(lines).rstrip() + "\n"

    def to_table(self) -> Table:
        """Render the scores for a terminal."""
        table = Table(title="mIoU, % (mean ± standard deviation over seeds)", title_justify="left")
        keys = [*map(escape, self.differences)]
        more = f" and {len(keys) - CAPTION} more keys" * (len(keys) > CAPTION)
        table.caption = f"recipes differ in: {', '.join(keys[:CAPTION]) or 'nothing but the seed'}{more}"
        table.caption_justify = "left"
        table.add_column("run", overflow="fold")
        table.add_column("n", justify="right")
        for column in self.columns:
            table.add_column(escape(column), justify="right")
        for group in self.groups:
            cells = [
                f"[bold]{text}[/]" if self.is_best(group, column) else text
                for column, text in zip(self.columns, self.cells(group), strict=True)
            ]
            table.add_row(escape(group.name), group.count, *cells)
        return table

    def to_html(self) -> str:
        """Render one self-contained page: scores, differences of the recipes, and the scores of every class."""
        classes: dict[str, list[tuple[str, list[tuple[str, str]]]]] = {}
        for column in self.columns:
            names = dict.fromkeys(name for g in self.groups for name in g.classes.get(column, {}))
            if names:
                tables = [g.classes.get(column, {}) for g in self.groups]
                classes[column] = [(name, [_with_gain(name, t, tables[0]) for t in tables]) for name in names]
        return render("compare.html", comparison=self, classes=classes)

    def cells(self, group: Group) -> list[str]:
        """Return a group's scores as text, one for each column; a dash if there is none."""
        return [str(group.scores.get(column, NONE)) for column in self.columns]

    def is_best(self, group: Group, column: str) -> bool:
        """Return whether no other group has a higher mean in `column`, and at least one has a lower one."""
        means = [g.scores[column].mean for g in self.groups if column in g.scores]
        return column in group.scores and group.scores[column].mean == max(means) > min(means)


def compare(run_folders: Sequence[str | Path]) -> Comparison:
    """Read runs and compare them; runs whose recipes differ only in the seed are one group.

    Groups are in the order of their first run. Raises UserError for no folder, one given twice, or one that is no run.
    """
    if not run_folders:
        raise UserError("there is no run to compare; give one or more run folders")
    places = [Path(folder).resolve() for folder in run_folders]
    for folder in places:
        if places.count(folder) > 1:
            raise UserError(f"{folder}: given {places.count(folder)} times; give each run once")
    groups_by_key: dict[str, list[Record]] = {}
    records = [read_record(folder) for folder in run_folders]
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
    columns = dict.fromkeys(column for group in groups for column in group.scores)
    first = [c for c in columns if c == SHARED]
    return Comparison(
        tuple(groups),
        tuple(first + [c for c in columns if c not in first]),
        shared,
        tuple(n for n in every if n not in shared),
        _differences(groups, bool(alone)),
    )


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
        entries,
        {column: _score(found) for column, found in values.items()},
        {column: {label: _score(found) for label, found in table.items()} for column, table in classes.items()},
    )


def _with_gain(name: str, scores: dict[str, Score], first: dict[str, Score]) -> tuple[str, str]:
    """Return the score of a class, and what it is more than in the first group."""
    if name not in scores:
        return NONE, ""
    both = scores is not first and name in first
    return str(scores[name]), points(scores[name].mean - first[name].mean) if both else ""


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


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


def _differences(groups: Sequence[Group], alone: bool) -> dict[str, tuple[str, ...]]:
    """List the recipe's keys, dotted, whose values are not the same in all groups; a missing key is a dash.

    With a group of runs `alone`, whose data are others by what it is, data are not compared.
    """
    left_out = {SEED, *ELSEWHERE} if alone else {SEED}
    recipes = [{k: v for k, v in group.runs[0].recipe.items() if k not in left_out} for group in groups]
    flat = [dict(_flatten(recipe)) for recipe in recipes]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    rows = {key: tuple(recipe.get(key, NONE) for recipe in flat) for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def _flatten(tree: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else key)
    elif isinstance(tree, list) and any(isinstance(v, dict) for v in tree):
        for i, value in enumerate(tree):
            yield from _flatten(value, f"{prefix}[{i}]")
    else:
        yield prefix, json.dumps(tree, ensure_ascii=False, default=str)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
