"""The course of a run: its folder is prepared or found again, its stages are trained, its results written."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from torch import Tensor

from manyseg import atomic
from manyseg.config import flatten, read_toml, to_toml
from manyseg.data.annotation import KINDS, Dense, Segments
from manyseg.data.folder import Folder
from manyseg.data.mixture import Mixture
from manyseg.errors import UserError
from manyseg.evaluation.evaluate import collect, evaluate, statistics_key
from manyseg.evaluation.scores import Scores
from manyseg.labels.files import write_spaces
from manyseg.methods import Method
from manyseg.methods.sources import propose_by_text
from manyseg.relate.statistics import Statistics
from manyseg.report import environment, predict_samples, write_report, write_samples
from manyseg.runs.recipe import Recipe, Stage, build_method, statistics_file
from manyseg.training import checkpoint
from manyseg.training import loop as train
from manyseg.training.optimizer import seed_everything

__all__ = ["Training"]

HARMLESS = ("data.workers", "train.track", "train.log_every", "train.eval_every", "train.checkpoint_every")
"""What may change on resuming: it decides how the run is read and written, not what it computes."""

console = Console(soft_wrap=True, highlight=False, markup=False)


class Training:
    """A run in progress: its recipe, folder and data, and this process's place among others."""

    def __init__(self, recipe: Recipe, folder: Path, accelerator: Accelerator) -> None:
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        self.main: bool = accelerator.is_main_process
        rank, world = accelerator.process_index, accelerator.num_processes
        self.mixture = Mixture.open(recipe.data, recipe.base, seed=recipe.seed, rank=rank, world=world)
        self.spaces = tuple(f.space for f in self.mixture.folders)
        self.stages = recipe.stages
        self.seen = [f for s in recipe.data.sets if _scorable(f := s.open_eval(recipe.base))]
        self.unseen = [f for s in recipe.data.unseen if _scorable(f := s.open_eval(recipe.base))]
        # Opened here, so that a split that is not there is an error before the first step.
        self.measured = {
            stage.name: [s.open_statistics(recipe.base) for s in recipe.data.sets]
            for i, stage in enumerate(self.stages)
            if any(later.reads_statistics_of(stage.name) for later in self.stages[i + 1 :])
        }
        for stage in self.stages:
            _check_kinds(stage, self.mixture.folders)

    def claim(self, resume: bool) -> bool:
        """Prepare the folder, or check that it is of the same recipe; return False if the run is finished."""
        tree, files = self.recipe.portable(self.folder)
        text = to_toml(tree)
        there = (self.folder / "recipe.toml").exists()
        if there and not resume:
            raise UserError(f"{self.folder}: a run is there; go on with it by --resume, or choose another --out")
        if there:
            changed = _changes(read_toml(self.folder / "recipe.toml"), tomllib.loads(text))
            changed += [k for k, source in files.items() if source and not _same(self.folder / k, source)]
            if changed:
                raise UserError(
                    f"{self.folder}: the recipe is not the run's, changed are: {', '.join(changed)}; restore "
                    f"them, or choose another --out"
                )
        finished = (self.folder / "report.html").exists()
        self.accelerator.wait_for_everyone()
        if self.main and not finished:
            self._write_inputs(text, files)
        self.accelerator.wait_for_everyone()
        return not finished

    def run(self) -> None:
        """Go through all stages, evaluate the best weights, and write what the run gave."""
        if self.main:
            console.print(_mix_table(self.mixture, sum(s.train.steps * s.train.accumulate for s in self.stages)))
        first, method = 0, None
        reached = self._reached()
        for i, stage in enumerate(self.stages):
            # Seeded by the stage, so that resuming in the middle of it starts from the same weights.
            seed_everything(self.recipe.seed, i)
            if i >= reached:
                method = self._train_stage(i, first)
            first += stage.train.steps
        assert method is not None
        checkpoint.read(self.folder / "best").load_into(method)
        if self.main:
            _write_tables(self.folder, method)
        scores = evaluate(method, [*self.seen, *self.unseen], options=self.recipe.test)
        if self.main:
            self._write_results(method, scores)
            checkpoint.discard_previous(self.folder / "checkpoint")
        self.accelerator.wait_for_everyone()

    def _reached(self) -> int:
        """Return the number of the stage that the run's checkpoint is in; earlier ones are finished."""
        if self.main:
            wrong = checkpoint.settle(self.folder / "checkpoint")
            if wrong:
                console.print(f"warning: {wrong}; going on from the checkpoint before it")
        self.accelerator.wait_for_everyone()
        if not (self.folder / "checkpoint").exists():
            return 0
        name = checkpoint.read(self.folder / "checkpoint").state["stage"]
        return [s.name for s in self.stages].index(name)

    def _train_stage(self, number: int, first: int) -> Method:
        stage = self.stages[number]
        method = build_method(self.recipe, stage, self.spaces, self.folder, pretrained=number == 0)
        if number:
            before = checkpoint.read(self.folder / "stages" / self.stages[number - 1].name)
            report = _take_over(method, before.tensors("model"))
            if self.main:
                console.print(f"stage '{stage.name}' starts from '{self.stages[number - 1].name}': {report}")
        train.train(
            method,
            self.mixture,
            stage.train,
            self.folder,
            evaluate=self._evaluate,
            seed=self.recipe.seed,
            stage=stage.name,
            first=first,
        )
        if number < len(self.stages) - 1:
            self._keep(stage.name, method)
        return method

    def _keep(self, stage: str, method: Method) -> None:
        """Write what later stages start from: the weights, the taxonomy and, if one of them asks, the statistics."""
        place = self.folder / "stages" / stage
        statistics = self._statistics(stage, method, statistics_file(place)) if stage in self.measured else None
        if self.main:
            checkpoint.write(place, {"model": method.state_dict()}, {"stage": stage})
            checkpoint.discard_previous(place)
            _write_tables(place, method)
            if statistics is not None:
                statistics.write(statistics_file(place))
        self.accelerator.wait_for_everyone()

    def _statistics(self, stage: str, method: Method, path: Path) -> Statistics:
        """Collect what the stage's model says of every dataset, or read it where the run had come as far before."""
        heads = (*method.spaces, method.taxonomy.unified)
        known = Statistics.load(path) if path.exists() else None
        # The folder is written anew when all have read it.
        self.accelerator.wait_for_everyone()
        if known is not None and known.key == statistics_key(method, heads, self.recipe.test):
            return known
        return collect(method, self.measured[stage], self.recipe.test, heads=heads, activation=method.activation)

    def _evaluate(self, method: Method) -> train.Scores:
        if self.main:
            _write_tables(self.folder, method)
        found = evaluate(method, self.seen, options=self.recipe.test).to_json()["datasets"]
        # PQ is there for methods that tell objects apart alone.
        keys = ("miou", "pixel_accuracy", "pq")
        return {n: {k: s[k] for k in keys if k != "pq" or s[k] is not None} for n, s in found.items()}

    def _write_inputs(self, recipe: str, files: dict[str, Path | None]) -> None:
        for name, source in files.items():
            file = self.folder / name
            if source is None:
                if not file.exists():
                    self._propose(file)
            elif not _same(file, source):
                atomic.write(file, source.read_bytes())
        write_spaces(self.folder / "spaces.json", self.spaces)
        atomic.write(self.folder / "environment.json", json.dumps(environment(), indent=1) + "\n")
        # Last: a folder with a recipe is a run that can be resumed.
        atomic.write(self.folder / "recipe.toml", recipe)

    def _propose(self, file: Path) -> None:
        taxonomy = propose_by_text(self.spaces)
        taxonomy.write(file)
        console.print(
            f"{file}: the label space that `manyseg labels` proposes, {len(taxonomy.unified)} nodes; to train another "
            "one, correct a copy and name it in method.taxonomy"
        )

    def _write_results(self, method: Method, scores: Scores) -> None:
        scores.write(self.folder / "scores.json")
        counts: dict[str, Any] = {name: d.confusion.matrix for name, d in scores.datasets.items()}
        atomic.write(self.folder / "confusion.npz", lambda file: np.savez_compressed(file, **counts))
        for folder in (*self.seen, *self.unseen):
            shown = predict_samples(method, folder, self.recipe.test)
            write_samples(self.folder, folder.space, method.taxonomy.unified, shown)
        console.print(f"{write_report(self.folder)}: the report of this run")


def _write_tables(place: Path, method: Method) -> None:
    method.taxonomy.write(place / "taxonomy.tsv")
    for name, text in method.tables.items():
        atomic.write(place / name, text)


def _take_over(method: Method, weights: dict[str, Tensor]) -> str:
    """Load the weights whose names and shapes fit; say what stays as it was initialised."""
    own, weights = method.state_dict(), dict(method.inherit(weights))
    fits = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    method.load_state_dict(fits, strict=False)
    new = [k for k in own if k not in fits]
    names = f" (new: {', '.join(new[:6])}{' ...' * (len(new) > 6)})" if new else ""
    return f"{len(fits)} of {len(own)} tensors taken over{names}"


def _scorable(folder: Folder) -> bool:
    return KINDS[folder.annotation] in (Dense, Segments)


def _check_kinds(stage: Stage, folders: Sequence[Folder]) -> None:
    for folder in folders:
        if KINDS[folder.annotation] not in stage.kind.accepts:
            accepted = " or ".join(k.__name__.lower() for k in stage.kind.accepts)
            raise UserError(
                f"dataset '{folder.space.name}' is annotated with {folder.annotation}, but {stage.kind.__name__} "
                f"(stage '{stage.name}') learns from {accepted}; leave it out or choose another method"
            )


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    old, new = flatten(before), flatten(after)
    return sorted(k for k in {*old, *new} if old.get(k) != new.get(k) and k not in HARMLESS)


def _same(a: Path, b: Path) -> bool:
    return a.exists() and (a.samefile(b) or a.read_bytes() == b.read_bytes())


def _mix_table(mixture: Mixture, steps: int) -> Table:
    table = Table(title=f"{steps} steps of", title_justify="left", box=None)
    for column in ("dataset", "images", "a step", "share", "epochs", "crop", "augmentation"):
        table.add_column(column)
    for row in mixture.describe(steps):
        crop = f"{row.crop[0]}x{row.crop[1]}"
        numbers = (f"{row.images}", f"{row.per_step:.2f}", f"{row.share:.0%}", f"{row.epochs:.1f}")
        table.add_row(row.dataset, *numbers, crop, row.augmentation)
    return table
