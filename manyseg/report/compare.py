"""The comparison of several runs: mean and standard deviation over seeds, and the differences of their recipes."""

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
from manyseg.report.record import Record, read_record
from manyseg.templates import render

__all__ = ["Comparison", "Score", "compare"]

SEED = "seed"
"""The only key in which the recipes of one group may differ."""

CAPTION = 8
"""The number of differing keys that are named in the terminal; Markdown and the page have all, with values."""

NONE = "—"


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
    """Runs whose recipes are equal but for the seed."""

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


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, the columns of their scores, and the recipe keys in which the groups differ.

    A column is a dataset under a protocol, so that scores of different protocols are never in one column; the first,
    `mean (seen)`, is over the datasets seen in training. `differences[key]` has one value for each group.
    """

    groups: tuple[Group, ...]
    columns: tuple[str, ...]
    differences: dict[str, tuple[str, ...]]

    def to_markdown(self) -> str:
        """Render two Markdown tables: scores in percent, the best of a column in bold; then what recipes differ in."""
        lines = [_row(["run", "n", *self.columns]), _row(["---", "---:", *["---:"] * len(self.columns)])]
        for group in self.groups:
            cells = [
                f"**{text}**" if self.is_best(group, column) else text
                for column, text in zip(self.columns, self.cells(group), strict=True)
            ]
            lines.append(_row([group.name, group.count, *cells]))
        lines += ["", "mIoU in %; mean ± standard deviation over runs that differ in the seed only.", ""]
        if self.differences:
            lines += [_row(["recipe", *(g.name for g in self.groups)]), _row(["---"] * (len(self.groups) + 1))]
            lines += [_row([f"`{key}`", *values]) for key, values in self.differences.items()]
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
        classes: dict[str, list[tuple[str, list[str]]]] = {}
        for column in self.columns[1:]:
            names = dict.fromkeys(name for g in self.groups for name in g.classes.get(column, {}))
            classes[column] = [
                (name, [str(g.classes.get(column, {}).get(name, NONE)) for g in self.groups]) for name in names
            ]
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
    for record in map(read_record, run_folders):
        groups_by_key.setdefault(_key(record), []).append(record)
    groups = [
        _group(name, runs)
        for name, runs in zip(_names(list(groups_by_key.values())), groups_by_key.values(), strict=True)
    ]
    columns = dict.fromkeys(column for group in groups for column in group.scores)
    first = [c for c in columns if c == "mean (seen)"]
    return Comparison(tuple(groups), tuple(first + [c for c in columns if c not in first]), _differences(groups))


def _key(record: Record) -> str:
    """Return a key of a recipe without its seed; a run without a recipe is a group of its own."""
    rest = {k: v for k, v in record.recipe.items() if k != SEED}
    return json.dumps(rest, sort_keys=True, default=str) if rest else str(record.folder.resolve())


def _group(name: str, runs: Sequence[Record]) -> Group:
    values: dict[str, list[float]] = {}
    classes: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        if run.scores:
            _add(values, "mean (seen)", run.scores.get("mean_miou_seen"))
        for dataset, entry in run.scores.get("datasets", {}).items():
            protocol = str(entry.get("protocol", "seen"))
            column = dataset if protocol == "seen" else f"{dataset} ({protocol})"
            _add(values, column, entry.get("miou"))
            for label, score in (entry.get("classes") or {}).items():
                _add(classes.setdefault(column, {}), label, score.get("iou"))
    return Group(
        name,
        tuple(runs),
        tuple(str(run.recipe.get(SEED, "?")) for run in runs),
        {column: _score(found) for column, found in values.items()},
        {column: {label: _score(found) for label, found in table.items()} for column, table in classes.items()},
    )


def _add(values: dict[str, list[float]], key: str, value: Any) -> None:
    """Add a value if it is a finite number; that of an absent class or a missing evaluation is not."""
    if isinstance(value, int | float) and math.isfinite(value):
        values.setdefault(key, []).append(float(value))


def _score(values: Sequence[float]) -> Score:
    return Score(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def _names(groups: Sequence[Sequence[Record]]) -> list[str]:
    """Name groups by their method; where several share it, by their folders without a trailing seed number."""
    methods = [runs[0].method for runs in groups]
    folders = [runs[0].folder.resolve().name for runs in groups]
    short = [re.sub(r"[-_.]?(seed)?[-_.]?\d+$", "", name) or name for name in folders]
    out: list[str] = []
    for method, folder, stem in zip(methods, folders, short, strict=True):
        name = next(n for n, taken in ((method, methods), (stem, short), (folder, [])) if taken.count(n) <= 1)
        out.append(name if name not in out else f"{name} #{len(out) + 1}")
    return out


def _differences(groups: Sequence[Group]) -> dict[str, tuple[str, ...]]:
    """List the recipe's keys, dotted, whose values are not the same in all groups; a missing key is a dash."""
    flat = [dict(_flatten(group.runs[0].recipe)) for group in groups]
    keys = dict.fromkeys(key for recipe in flat for key in recipe if key != SEED)
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
