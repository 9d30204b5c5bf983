"""The course of a run: its inputs are put into its folder, its stages are trained, the best weights evaluated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from rich.table import Table
from torch import Tensor

from manyseg import atomic
from manyseg.data.annotation import KINDS, Dense, Segments
from manyseg.data.files import DataError
from manyseg.data.folder import Folder
from manyseg.data.mixture import Mixture
from manyseg.data.quick_check import quick_check
from manyseg.errors import UserError, close, counted
from manyseg.evaluation.dataset_pass import check_views
from manyseg.evaluation.evaluate import collect, evaluate, statistics_key
from manyseg.evaluation.scores import DatasetScores, Scores
from manyseg.methods.base import Method
from manyseg.progress import WorkConsole
from manyseg.relate.statistics import Statistics
from manyseg.runs.fit import Machine
from manyseg.runs.folder import RunFolder
from manyseg.runs.inputs import RunInputs
from manyseg.runs.lock import only_writer
from manyseg.runs.recipe import Recipe, Stage, build_method, statistics_file
from manyseg.runs.results import write_results
from manyseg.runs.start import Start
from manyseg.stop_signals import StopSignals
from manyseg.training import checkpoint
from manyseg.training import loop as train
from manyseg.training.optimizer import seed_everything
from manyseg.training.sharding import check_sharding

__all__ = ["Training", "console", "mix_table"]

console = WorkConsole(soft_wrap=True, highlight=False, markup=False)


class Training:
    """A run in progress: its recipe, folder and data, this process's place among others, and what it starts from."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        accelerator: Accelerator,
        signals: StopSignals,
        start: Start | None = None,
    ) -> None:
        self.recipe, self.folder, self.accelerator, self.signals = recipe, folder, accelerator, signals
        self.start = start
        self.main: bool = accelerator.is_main_process
        signals.quiet = not self.main
        rank, world = accelerator.process_index, accelerator.num_processes
        self.mixture = Mixture.open(recipe.data, recipe.base, seed=recipe.seed, rank=rank, world=world)
        self.spaces = tuple(f.space for f in self.mixture.folders)
        self.stages = recipe.stages
        self.steps = sum(s.train.steps for s in self.stages)
        self.best: tuple[str, Scores] | None = None
        """The best scores while training, and the key of the weights that have them."""
        self.seen = [f for s in recipe.data.sets if _scorable(f := s.open_eval(recipe.base))]
        self.unseen = [f for s in recipe.data.unseen if _scorable(f := s.open_eval(recipe.base))]
        names = [f.space.name for f in (*self.seen, *self.unseen)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(
                f"{recipe.file}: dataset '{twice[0]}' is to be evaluated twice; give one of the cards another name"
            )
        if strange := [name for name in recipe.test.sets if name not in names]:
            meant = close(strange[0], names) or f"; there are: {', '.join(names)}"
            raise UserError(f"{recipe.file}: test.sets.{strange[0]}: no dataset of that name is evaluated{meant}")
        # Opened here, so that a split that is not there is an error before the first step.
        self.measured = {
            stage.name: [s.open_statistics(recipe.base) for s in recipe.data.sets]
            for i, stage in enumerate(self.stages)
            if any(later.reads_statistics_of(stage.name) for later in self.stages[i + 1 :])
        }
        for stage in self.stages:
            check_sharding(stage.train, world)
            _check_kinds(stage, self.mixture.folders)

    def prepare(self, resume: bool, *, check: bool = True) -> bool:
        """Put the inputs into the folder, or check that they are the same; return False if the run is finished.

        With `check` the images of all datasets are checked before anything is written.
        """
        before = None if self.start is None else self.start.scores
        inputs = RunInputs(self.recipe, self.folder, self.spaces, before)
        if not resume:
            self.folder.check_new()
        if self.folder.started:
            inputs.check()
        finished = self.folder.finished
        if not finished:
            with self._main_alone() as main:
                if main and check:
                    self._check_data()
                if main:
                    check_views(self.read, self.recipe.test)
                    self.mixture.count()
                    inputs.write()
            # What the first process has counted the others find in the cache.
            self.mixture.count()
        return not finished

    def run(self, resume: bool = False) -> None:
        """Go through all stages, evaluate the best weights, and write what the run gave.

        With `resume` it is said from which step on. Raises Interrupted for a signal.
        """
        machine = Machine.of(self.accelerator)
        if self.main:
            console.print(f"trains on {machine.name}")
            console.print(mix_table(self.mixture, sum(s.train.steps * s.train.accumulate for s in self.stages)))
        first, method = 0, None
        reached = self._reached()
        if resume and self.main:
            done = self._saved_steps()
            console.print(
                f"going on after step {done} of {self.steps}" if done else "nothing was saved: from step 0 on"
            )
        for i, stage in enumerate(self.stages):
            # Seeded by the stage, so that resuming in the middle of it starts from the same weights.
            seed_everything(self.recipe.seed, i)
            if i >= reached:
                method = self._train_stage(i, first)
            first += stage.train.steps
        assert method is not None
        checkpoint.read(self.folder.best).load_into(method)
        if self.main:
            self.folder.write(_tables(method))
        with _trained("the last evaluation"):
            scores = self._scores(method)
        if self.main:
            # Before the report, which is written last: a run that has one is finished.
            checkpoint.discard_previous(self.folder.checkpoint)
            write_results(self.folder, method, (*self.seen, *self.unseen), self.recipe.test, scores)
        self.accelerator.wait_for_everyone()

    @property
    def read(self) -> list[Folder]:
        """All splits that are read, beside those that are trained on."""
        return [*self.seen, *self.unseen, *(folder for folders in self.measured.values() for folder in folders)]

    def _check_data(self) -> None:
        """Print what is wrong with the data; raises UserError for errors, unless bad files are to be skipped."""
        findings = quick_check(self.mixture.folders, self.read)
        for finding in findings:
            console.print(str(finding))
        errors = sum(f.severity == "error" for f in findings)
        if errors and self.recipe.data.on_bad_file == "error":
            raise UserError(
                f"{self.recipe.file}: {counted(errors, 'kind')} of error in the data, listed above; correct them, or "
                "train with --no-check"
            )

    @contextmanager
    def _main_alone(self) -> Iterator[bool]:
        """Let the main process work while the others wait for it; an error of it is raised in all of them."""
        error: str | None = None
        try:
            yield self.main
        except UserError as e:
            error = str(e)
        if (error := broadcast_object_list([error])[0]) is not None:
            raise UserError(error)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the run's only writer; raises UserError, in all processes, where another run is."""
        with ExitStack() as lock:
            with self._main_alone() as main:
                if main:
                    lock.enter_context(only_writer(self.folder.path))
                    self.folder.remove_unfinished()
            yield

    def outcome(self, command: str) -> str:
        """Say how many steps are saved, and that `command` goes on after them."""
        done, world = self._saved_steps(), self.accelerator.num_processes
        saved = f"step {done} of {self.steps} is saved" if done else "no step was saved"
        launched = f"launch the {world} processes as before, each with: " if world > 1 else ""
        return f"{saved}; to go on: {launched}{command}"

    def _saved_steps(self) -> int:
        """Return the number of steps that the checkpoint holds."""
        try:
            return int(checkpoint.read(self.folder.checkpoint).state["step"])
        except UserError:
            return 0

    def _reached(self) -> int:
        """Return the number of the stage that the run's checkpoint is in; earlier ones are finished."""
        with self._main_alone() as main:
            if main and (wrong := checkpoint.recover(self.folder.checkpoint)):
                console.print(f"warning: {wrong}; going on from the checkpoint before it")
        if not self.folder.checkpoint.exists():
            return 0
        name = checkpoint.read(self.folder.checkpoint).state["stage"]
        return [s.name for s in self.stages].index(name)

    def _train_stage(self, number: int, first: int) -> Method:
        stage = self.stages[number]
        fresh = number == 0 and self.start is None
        method = build_method(self.recipe, stage, self.spaces, self.folder.path, pretrained=fresh)
        for name in method.taxonomy.undivided if self.main else ():
            console.print(
                f"warning: stage '{stage.name}': all classes of dataset '{name}' are one unified node, so that it "
                "teaches nothing and its loss is 0; give its classes nodes of their own in the taxonomy"
            )
        if self.main and number == 0 and method.pixel_encoder.backbone.loaded:
            backbone = method.pixel_encoder.backbone
            console.print(f"backbone {backbone.name}: {backbone.loaded}")
        if number:
            before = checkpoint.read(self.folder.stage(self.stages[number - 1].name))
            report = _take_over(method, before.tensors("model"))
            if self.main:
                console.print(f"stage '{stage.name}' starts from '{self.stages[number - 1].name}': {report}")
        elif self.start is not None and not self.folder.checkpoint.exists():
            report = self.start.give(method)
            if self.main:
                console.print(report)
        train.train(
            method,
            self.mixture,
            stage.train,
            self.folder.path,
            evaluate=self._evaluate,
            accelerator=self.accelerator,
            signals=self.signals,
            seed=self.recipe.seed,
            stage=stage.name,
            first=first,
        )
        if stage.train.shard:
            # From here on every process uses the method by itself.
            method = build_method(self.recipe, stage, self.spaces, self.folder.path, pretrained=False)
            checkpoint.read(self.folder.checkpoint).load_into(method.to(self.accelerator.device))
        if number < len(self.stages) - 1:
            self._keep(stage.name, method)
        return method

    def _keep(self, stage: str, method: Method) -> None:
        """Write what later stages start from: the weights, the taxonomy and, if one of them asks, the statistics."""
        place = self.folder.stage(stage)
        statistics = self._statistics(stage, method, statistics_file(place)) if stage in self.measured else None
        if self.main:
            with self.folder.replacing(f"stages/{stage}/*"):
                checkpoint.write(place, {"model": method.handover()}, {"stage": stage})
                checkpoint.discard_previous(place)
                for name, text in _tables(method).items():
                    atomic.write(place / name, text)
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
        with _trained(f"the statistics of stage '{stage}'"):
            return collect(
                method,
                self.measured[stage],
                self.recipe.test,
                heads=heads,
                activation=method.activation,
                skip_bad=self.recipe.data.skip_bad,
            )

    def _scores(self, method: Method) -> Scores:
        """Score all datasets; those that this process has scored with the same weights are not scored again."""
        test, skip_bad = self.recipe.test, self.recipe.data.skip_bad
        # With less than full precision training evaluates otherwise than here.
        exact, known = self.stages[-1].train.precision == "fp32", dict[str, DatasetScores]()
        if exact and self.best is not None and self.best[0] == statistics_key(method, (), test):
            known |= self.best[1].datasets
        return evaluate(method, [*self.seen, *self.unseen], options=test, skip_bad=skip_bad, known=known)

    def _evaluate(self, method: Method) -> dict[str, train.Score]:
        if self.main:
            self.folder.write(_tables(method))
        with _trained("this evaluation"):
            scores = evaluate(method, self.seen, options=self.recipe.test, skip_bad=self.recipe.data.skip_bad)
        if self.best is None or (scores.mean_miou_seen or 0.0) >= (self.best[1].mean_miou_seen or 0.0):
            self.best = statistics_key(method, (), self.recipe.test), scores
        return {name: _score(d) for name, d in scores.datasets.items()}


@contextmanager
def _trained(step: str) -> Iterator[None]:
    """Say of an error in what follows training that nothing is lost, and how to go on."""
    try:
        yield
    except UserError as e:
        leave = ", or leave such files out by --set data.on_bad_file=skip," if isinstance(e, DataError) else ""
        raise UserError(
            f"{e}; all that was trained is saved: mend this{leave} and go on at {step} with --resume"
        ) from e


def _tables(method: Method) -> dict[str, str]:
    """Return the texts that say what a method has learned of labels, by the names of their files."""
    return {"taxonomy.tsv": method.taxonomy.to_tsv(), **method.extra_files}


def _score(scores: DatasetScores) -> train.Score:
    """Return what the log of a training keeps of an evaluation."""
    miou, accuracy = (None if math.isnan(v) else v for v in (scores.miou, scores.confusion.accuracy))
    out: train.Score = {"miou": miou, "pixel_accuracy": accuracy}
    return out if scores.pq is None else {**out, "pq": scores.pq}  # Only methods that tell objects apart have one.


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


def mix_table(mixture: Mixture, steps: int) -> Table:
    """Return what each dataset contributes to so many steps, for printing."""
    table = Table(title=f"{steps} steps of", title_justify="left", box=None)
    for column in ("dataset", "images", "a step", "share", "epochs", "crop", "augmentation"):
        table.add_column(column)
    for row in mixture.describe(steps):
        crop = f"{row.crop[0]}x{row.crop[1]}"
        numbers = (f"{row.images}", f"{row.per_step:.2f}", f"{row.share:.0%}", f"{row.epochs:.1f}")
        table.add_row(row.dataset, *numbers, crop, row.augmentation)
    return table
