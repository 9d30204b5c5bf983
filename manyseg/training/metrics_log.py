"""What a run says while it trains: metrics.jsonl always, a live display on a terminal, plain lines elsewhere.

A line of metrics.jsonl is one JSON object with `step` and `stage`; a line about steps has `loss` and `losses`, one
about an evaluation has `eval`. Steps count from 0 over all stages; an evaluation bears the number of steps done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from manyseg import atomic
from manyseg.errors import UserError
from manyseg.progress import WorkConsole
from manyseg.training.options import Tracker

__all__ = ["MetricsLog", "check_trackers", "cut", "evaluated_steps"]


class MetricsLog:
    """Writes and shows the lines of one stage; a context manager. `total` is the step at which the stage ends.

    An inactive log (of a process other than the first) does nothing.
    """

    def __init__(self, folder: Path, total: int, trackers: Sequence[Tracker] = (), *, active: bool = True) -> None:
        self.total = total
        self.path = folder / "metrics.jsonl"
        self.active = active
        self._console = WorkConsole()
        self._lines: dict[str, dict[str, Any]] = {}
        self._first: dict[str, Any] | None = None
        self._trackers = [_TRACKERS[t](folder) for t in trackers] if active else []
        self._live: Live | None = None
        if active:
            self._file = self.path.open("a", encoding="utf-8")
            if self._console.is_terminal:
                self._live = Live(console=self._console, refresh_per_second=4)

    def __enter__(self) -> MetricsLog:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        if self.active:
            self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def write(self, line: dict[str, Any]) -> None:
        """Append one line, show it, and pass its numbers on; raises UserError when the disk is full."""
        if not self.active:
            return
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as e:
            raise UserError(f"{self.path}: cannot write ({e}); make room on the disk, then go on with --resume") from e
        numbers = dict(_numbers(line))
        for tracker in self._trackers:
            tracker.log(numbers, line["step"])
        if "eval" not in line:
            self._first = self._first or line
        self._lines["eval" if "eval" in line else "step"] = line
        if self._live:
            self._live.update(self._display())
        else:
            self._console.print(self._plain(line), soft_wrap=True, highlight=False, markup=False)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the display away for as long as something else is shown."""
        if self._live:
            self._live.stop()
        try:
            yield
        finally:
            if self._live:
                self._live.start()

    def say(self, text: str) -> None:
        """Print one line of text above the display."""
        if self.active:
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def sync(self) -> None:
        """Force what was written onto the disk."""
        if self.active:
            os.fsync(self._file.fileno())

    def _display(self) -> Group:
        line = self._lines.get("step", {})
        bar = Progress(TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.completed}/{task.total}"))
        bar.add_task(str(line.get("stage", "")), total=self.total, completed=line.get("step", -1) + 1)
        losses, scores = Table("loss", "", box=None), Table("dataset", "mIoU", "pixel accuracy", box=None)
        for name, value in line.get("losses", {}).items():
            losses.add_row(name, f"{value:.4f}")
        for name, score in self._lines.get("eval", {}).get("eval", {}).items():
            scores.add_row(name, *(_score(score.get(k)) for k in _SCORES))
        return Group(bar, self._plain(line) if line else "", losses, scores if scores.row_count else "")

    def _plain(self, line: dict[str, Any]) -> str:
        if "eval" in line:
            scores = "  ".join(f"{n} {_score(s['miou'])}" for n, s in line["eval"].items())
            return f"after {line['step']} steps  mIoU {scores}  mean {_score(line['mean_miou'])}"
        losses = "  ".join(f"{n} {v:.4f}" for n, v in line["losses"].items())
        return (
            f"{line['stage']} {line['step'] + 1}/{self.total}  loss {line['loss']:.4f}  {losses}  "
            f"{line['images_per_s']:.1f} images/s  {line['data_wait']:.0%} waiting for data  {self._left(line)} left"
        )

    def _left(self, line: dict[str, Any]) -> str:
        """Estimate the time to the end of the stage from the lines since this process began."""
        first = self._first or line
        if line["step"] == first["step"]:
            return "?"
        pace = (line["seconds"] - first["seconds"]) / (line["step"] - first["step"])
        return str(timedelta(seconds=round(pace * (self.total - 1 - line["step"]))))


def cut(path: Path, step: int) -> None:
    """Drop torn lines, and those of steps from `step` on and of evaluations after it; the file is replaced at once."""
    if path.exists():
        kept = [t for t, at, is_eval in _records(path) if at < step or (is_eval and at == step)]
        atomic.write(path, "".join(f"{text}\n" for text in kept))


def evaluated_steps(path: Path) -> set[int]:
    """Return the numbers of steps after which the log has an evaluation."""
    return {step for _, step, is_eval in _records(path) if is_eval} if path.exists() else set()


def _records(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Yield every whole line of the log, its step, and whether it is of an evaluation."""
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and type(line.get("step")) is int:
            yield text, line["step"], "eval" in line


def check_trackers(trackers: Sequence[Tracker]) -> None:
    """Raise UserError for a tracker whose package is not installed."""
    for tracker in trackers:
        if find_spec(tracker) is None:
            raise UserError(f'train.track: {tracker} is not installed; pip install "manyseg[track]" or remove it')


_SCORES = ("miou", "pixel_accuracy")


def _numbers(line: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in line.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key != "step":
            yield prefix + key, float(value)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _WandB:
    def __init__(self, folder: Path) -> None:
        import wandb

        # The folder's name is the run's identity: a resumed run goes on in the same chart.
        self.run = wandb.init(project="manyseg", name=folder.name, id=folder.name, resume="allow", dir=str(folder))

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.run.log(numbers, step=step)

    def close(self) -> None:
        self.run.finish()


_TRACKERS: dict[Tracker, type[_TensorBoard] | type[_WandB]] = {"tensorboard": _TensorBoard, "wandb": _WandB}
