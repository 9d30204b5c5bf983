"""The content of a run folder; a file that is missing or broken becomes a note, not an error."""

from __future__ import annotations

import csv
import json
import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import msgspec
import numpy as np
from jaxtyping import Int

from manyseg.errors import UserError, counted
from manyseg.report.change import class_ious

__all__ = ["BEFORE", "Record", "read_record", "read_scores"]

BEFORE = "files/before.json"
"""The scores of the run that this one started from."""

_Step = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
_Number = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
"""What can be drawn; neither NaN nor infinite, which JSON has not, but Python reads."""


class _Line(msgspec.Struct):
    """What a line of metrics.jsonl must hold to be shown: losses of steps, or scores of an evaluation."""

    step: _Step
    stage: str = ""
    loss: _Number | None = None
    losses: dict[str, _Number] = {}
    lr: _Number = 0.0
    images_per_s: _Number = 0.0
    data_wait: _Number = 0.0
    seconds: _Number = 0.0
    eval: dict[str, dict[str, _Number | None]] | None = None
    mean_miou: _Number | None = None


class _Class(msgspec.Struct):
    iou: _Number | None = None
    pixels: _Step | None = None


class _Dataset(msgspec.Struct):
    protocol: str = "seen"
    miou: _Number | None = None
    pixel_accuracy: _Number | None = None
    pq: _Number | None = None
    classes: dict[str, _Class] = {}
    skipped: list[str] = []


class _Knowledge(msgspec.Struct):
    area: _Number
    concepts: int
    measured: int
    curve: list[tuple[_Number, _Number]]


class _Axes(msgspec.Struct):
    knowledgeability: _Knowledge | None = None


class _Scores(msgspec.Struct):
    """What scores.json must hold to be shown."""

    datasets: dict[str, _Dataset] = {}
    unified_nodes: int | None = None
    mean_miou_seen: _Number | None = None
    axes: _Axes | None = None


@dataclass(frozen=True)
class Record:
    """The content of a run's folder.

    `steps` and `evals` are the lines of metrics.jsonl with an `at`: the step counted over all stages. `scores` is what
    `manyseg eval --json` writes, `confusions[dataset]` Int64[D, D] (truth, prediction), `taxonomy` the table's rows.
    `alone[dataset]` is the mIoU of every run of that dataset alone that lies in the same folder, by the run's name, and
    `alone_classes[dataset]` the mean IoU of each class over these runs.
    `before` are the scores of the run that this one started from. `notes` name in words what is missing or broken.
    """

    folder: Path
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    confusions: dict[str, Int[np.ndarray, "D D"]] = field(default_factory=dict)
    taxonomy: list[list[str]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    alone: dict[str, dict[str, float]] = field(default_factory=dict)
    alone_classes: dict[str, dict[str, float]] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def method(self) -> str:
        """The method's name, or "unknown method"."""
        return str(_at(self.recipe, "method", "name") or "unknown method")

    @property
    def stages(self) -> list[tuple[str, int, int]]:
        """Each stage with its first and last step, counted from 1 over all stages."""
        ends: dict[str, int] = {}
        for line in sorted((*self.steps, *self.evals), key=lambda entry: int(entry["at"])):
            ends[str(line.get("stage", ""))] = int(line["at"])
        firsts = [1, *(end + 1 for end in ends.values())]
        return [(name, first, end) for (name, end), first in zip(ends.items(), firsts, strict=False)]

    @property
    def mean(self) -> tuple[float | None, str]:
        """The mean mIoU over the datasets seen in training, and the evaluation that it is from."""
        value = self.scores.get("mean_miou_seen")
        if _finite(value):
            return value, "final evaluation"
        for line in reversed(self.evals):
            if _finite(line.get("mean_miou")):
                return line["mean_miou"], f"while training, after {line['step']} steps"
        return None, "no evaluation yet"


def read_record(folder: str | Path) -> Record:
    """Read a run folder; raises UserError only where there is no run at all."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run folder; correct its name")
    if not (folder / "recipe.toml").exists() and not (folder / "metrics.jsonl").exists():
        raise UserError(f"{folder}: not a run folder (no recipe.toml, no metrics.jsonl); give the folder of a run")
    notes: list[str] = []
    text = _text(folder / "recipe.toml", notes)
    steps, evals = _metrics(folder / "metrics.jsonl", notes)
    return Record(
        folder,
        _recipe(text, notes),
        text,
        steps,
        evals,
        read_scores(folder / "scores.json", notes),
        _confusions(folder / "confusion.npz", notes),
        _table(folder / "taxonomy.tsv", notes),
        _object(folder / "environment.json", notes),
        *_alone(folder),
        read_scores(folder / BEFORE, notes) if (folder / BEFORE).exists() else {},
        notes,
    )


def _text(path: Path, notes: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        notes.append(f"{path.name} is not there")
    except (OSError, UnicodeDecodeError) as e:
        notes.append(f"{path.name} cannot be read ({e.__class__.__name__})")
    return ""


def _recipe(text: str, notes: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as e:
        notes.append(f"recipe.toml is not TOML ({e})")
        return {}


def _object(path: Path, notes: list[str]) -> dict[str, Any]:
    text = _text(path, notes)
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as e:
        notes.append(f"{path.name} is not JSON ({e})")
        return {}
    return value if isinstance(value, dict) else {}


def read_scores(path: Path, notes: list[str]) -> dict[str, Any]:
    """Read scores.json, or nothing where it is missing or damaged, which becomes a note."""
    scores = _object(path, notes)
    try:
        msgspec.convert(scores, _Scores)
    except msgspec.ValidationError as e:
        notes.append(f"{path.name} is damaged ({e}); write it with `manyseg eval RUN --json`")
        return {}
    return scores


def _alone(folder: Path) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Collect the scores of the runs beside this one that were trained on one dataset, and those of its classes."""
    out: dict[str, dict[str, float]] = {}
    classes: dict[str, dict[str, list[float]]] = {}
    for path in sorted(folder.resolve().parent.glob("*/scores.json")):
        if path.parent == folder.resolve():
            continue
        scores = read_scores(path, [])
        seen = {name: d for name, d in scores.get("datasets", {}).items() if d.get("protocol") == "seen"}
        for name, entry in seen.items() if len(seen) == 1 else ():
            if _finite(entry.get("miou")):
                out.setdefault(name, {})[path.parent.name] = entry["miou"]
                for label, iou in class_ious(scores)[name].items():
                    classes.setdefault(name, {}).setdefault(label, []).append(iou)
    means = {name: {label: fmean(ious) for label, ious in table.items()} for name, table in classes.items()}
    return out, means


def _table(path: Path, notes: list[str]) -> list[list[str]]:
    rows = [r for r in csv.reader(_text(path, notes).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE) if any(r)]
    width = max(map(len, rows), default=0)
    return [row + [""] * (width - len(row)) for row in rows]


def _confusions(path: Path, notes: list[str]) -> dict[str, Int[np.ndarray, "D D"]]:
    if not path.exists():
        notes.append(f"{path.name} is not there")
        return {}
    try:
        # Opened here, because numpy does not close a file that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except Exception as e:  # A damaged archive can make numpy raise almost anything.
        notes.append(f"{path.name} cannot be read ({e.__class__.__name__})")
        return {}
    square = {n: a for n, a in found.items() if a.ndim == 2 and a.shape[0] == a.shape[1]}
    notes.extend(f"{path.name}: '{n}' is {list(found[n].shape)}, not square" for n in found.keys() - square.keys())
    return square


def _metrics(path: Path, notes: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    lines, broken = [], 0
    for text in _text(path, notes).splitlines():
        try:
            line = json.loads(text)
            known = msgspec.convert(line, _Line)
            if known.loss is None and known.eval is None:
                raise ValueError(text)
            lines.append(line)
        except (ValueError, RecursionError, msgspec.ValidationError):
            broken += bool(text.strip())
    if broken:
        notes.append(f"metrics.jsonl: {counted(broken, 'line')} cut off or broken, left out")
    return _in_order(lines)


def _in_order(lines: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split the lines into steps and evaluations, by stage and step, and count the steps done, over all stages (`at`).

    A resumed run repeats the steps after its checkpoint: the last line of a step is used. The steps of a stage that
    counts from 0 again follow those of the stage before.
    """
    stages: dict[str, tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]]] = {}
    for line in lines:
        kinds = stages.setdefault(str(line.get("stage", "")), ({}, {}))
        kinds["eval" in line][line["step"]] = line
    steps: list[dict[str, Any]] = []
    evals: list[dict[str, Any]] = []
    shift = end = 0
    for losses, scores in stages.values():
        # A step is numbered from 0, an evaluation by the number of steps before it: 10 is after the step 9.
        first = min((*losses, *scores))
        if first + shift < end:
            shift = end
        steps += [losses[step] | {"at": step + 1 + shift} for step in sorted(losses)]
        evals += [scores[step] | {"at": step + shift} for step in sorted(scores)]
        end = shift + max((*(step + 1 for step in losses), *scores))
    return steps, evals


def _at(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
