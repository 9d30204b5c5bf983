"""What classes gained and lost between two evaluations: of two runs, or of one and the run that it started from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Change", "ClassChange", "changes", "class_ious", "other_labels", "points", "row_text", "to_markdown"]

MOST = 3
"""Classes that are named of each dataset, of those that gain and of those that lose most."""

LEAST = 0.0005
"""Smaller differences of an IoU are none in the per cent that are shown."""


def points(difference: float) -> str:
    """Render a difference of shares in points of a per cent, with its sign: `+3.1`; nothing has a plus."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


class ClassChange(NamedTuple):
    """The IoU of a class, 0 to 1, before and after."""

    name: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        """What the class gained; negative where it lost."""
        return self.after - self.before

    def __str__(self) -> str:
        """Render the difference in points of a per cent: `bus -3.1`."""
        return f"{self.name} {points(self.difference)}"


class Change(NamedTuple):
    """The classes of a dataset that both evaluations scored, the largest loss first."""

    dataset: str
    classes: tuple[ClassChange, ...]

    @property
    def before(self) -> float:
        """The mean IoU of these classes before."""
        return sum(c.before for c in self.classes) / len(self.classes)

    @property
    def after(self) -> float:
        """The mean IoU of these classes after."""
        return sum(c.after for c in self.classes) / len(self.classes)

    @property
    def lost(self) -> tuple[ClassChange, ...]:
        """The classes that lost most."""
        return tuple(c for c in self.classes[:MOST] if c.difference < -LEAST)

    @property
    def gained(self) -> tuple[ClassChange, ...]:
        """The classes that gained most."""
        return tuple(c for c in self.classes[::-1][:MOST] if c.difference > LEAST)

    def cells(self) -> list[str]:
        """Render a row of a table: dataset, classes, means in per cent and their difference, losses and gains."""
        means = [f"{100 * value:.1f}" for value in (self.before, self.after)]
        names = [", ".join(map(str, part)) or "-" for part in (self.lost, self.gained)]
        return [self.dataset, str(len(self.classes)), *means, points(self.after - self.before), *names]


def changes(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> list[Change]:
    """Compare the IoUs of the classes, by dataset and name, that are in both; other datasets are left out."""
    out = []
    for dataset, classes in after.items():
        old = before.get(dataset, {})
        both = [ClassChange(name, old[name], iou) for name, iou in classes.items() if name in old]
        if both:
            out.append(Change(dataset, tuple(sorted(both, key=lambda c: c.difference))))
    return out


def class_ious(scores: Mapping[str, Any], protocol: str = "seen") -> dict[str, dict[str, float]]:
    """Return the IoU of every class that has one, by dataset, from the content of scores.json."""
    return {
        name: {label: c["iou"] for label, c in (entry.get("classes") or {}).items() if _finite(c.get("iou"))}
        for name, entry in scores.get("datasets", {}).items()
        if entry.get("protocol", "seen") == protocol
    }


def other_labels(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """List the datasets in which a class of both has another number of pixels: other images or labels were scored."""
    out = []
    for name, entry in after.get("datasets", {}).items():
        old = before.get("datasets", {}).get(name, {}).get("classes") or {}
        new = entry.get("classes") or {}
        if any(old[label].get("pixels") != new[label].get("pixels") for label in new if label in old):
            out.append(name)
    return out


def to_markdown(found: Sequence[Change], before: str = "before", after: str = "after") -> str:
    """Render a table, in per cent."""
    header = ["dataset", "classes of both", before, after, "change", "lost most", "gained most"]
    rows = [header, ["---", *["---:"] * 4, "---", "---"], *(change.cells() for change in found)]
    return "\n".join(map(row_text, rows)) + "\n"


def row_text(cells: Iterable[str]) -> str:
    """Render a row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
