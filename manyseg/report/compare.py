"""The comparison of several runs: mean and spread over seeds, what classes gain and lose, how the recipes differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from manyseg.errors import UserError
from manyseg.report.change import Change, changes, points, row_text, to_markdown
from manyseg.report.groups import ELSEWHERE, SEED, SHARED, Group, Score, group_runs
from manyseg.report.record import read_record
from manyseg.templates import render

__all__ = ["Comparison", "compare"]

CAPTION = 8
"""The number of differing keys that are named in the terminal; Markdown and the page have all, with values."""

NONE = "—"


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
        lines = [
            row_text(["run", "n", *self.columns]),
            row_text(["---", "---:", *["---:"] * len(self.columns)]),
        ]
        for group in self.groups:
            cells = [
                f"**{text}**" if self.is_best(group, column) else text
                for column, text in zip(self.columns, self.cells(group), strict=True)
            ]
            lines.append(row_text([group.name, group.count, *cells]))
        lines += ["", "mIoU in %; mean ± standard deviation over runs that differ in the seed only.", self.means_of, ""]
        for name, rows in self.changes.items():
            lines += [to_markdown(rows, self.groups[0].name, name), ""]
        if self.differences:
            lines += [
                row_text(["recipe", *(g.name for g in self.groups)]),
                row_text(["---"] * (len(self.groups) + 1)),
            ]
            lines += [row_text([f"`{key}`", *values]) for key, values in self.differences.items()]
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
    groups, shared, left_out, alone = group_runs([read_record(folder) for folder in run_folders])
    columns = dict.fromkeys(column for group in groups for column in group.scores)
    first = [c for c in columns if c == SHARED]
    return Comparison(
        groups,
        tuple(first + [c for c in columns if c not in first]),
        shared,
        left_out,
        _differences(groups, alone),
    )


def _with_gain(name: str, scores: dict[str, Score], first: dict[str, Score]) -> tuple[str, str]:
    """Return the score of a class, and what it is more than in the first group."""
    if name not in scores:
        return NONE, ""
    both = scores is not first and name in first
    return str(scores[name]), points(scores[name].mean - first[name].mean) if both else ""


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


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
