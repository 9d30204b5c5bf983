"""The one loop: a step, a line of the log, an evaluation, a checkpoint; and again, from where it was killed.

A step is a pure function of the weights, the optimiser's state and its number: the mixture computes the step's images
from it, the learning rate is computed from it, and all random generators are seeded from it anew. So a checkpoint
needs no generator's state and no loader's position, and a run that was killed gives the losses of one that was not.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from manyseg.cores import threads_for
from manyseg.data.batch import Batch
from manyseg.data.mixture import Mixture
from manyseg.errors import Interrupted, UserError
from manyseg.methods.base import Method
from manyseg.stop_signals import StopSignals
from manyseg.training import checkpoint
from manyseg.training.feature_cache import FeatureCache
from manyseg.training.first_steps import FirstSteps, memory_named
from manyseg.training.loss_accumulator import LossAccumulator
from manyseg.training.metrics_log import MetricsLog, check_trackers, cut, evaluated_steps
from manyseg.training.optimizer import rate, seed_everything
from manyseg.training.options import TrainOptions
from manyseg.training.processes import Agreement, find_processes
from manyseg.training.sharding import check_sharding, gathered, local, shard, whole_trunk
from manyseg.training.state import TrainingState

__all__ = ["Evaluate", "Score", "train"]


class Score(TypedDict):
    """What the log keeps of the evaluation of a dataset: values in 0..1, None where nothing could be measured."""

    miou: float | None
    pixel_accuracy: float | None
    pq: NotRequired[float]


Evaluate = Callable[[Method], Mapping[str, Score]]
"""Scores a method on every dataset that can be evaluated, by name."""


def train(
    method: Method,
    mixture: Mixture,
    options: TrainOptions,
    folder: Path,
    *,
    evaluate: Evaluate,
    seed: int = 0,
    stage: str = "train",
    first: int = 0,
    accelerator: Accelerator | None = None,
    signals: StopSignals | None = None,
) -> None:
    """Train `method` for `options.steps` steps, from the checkpoint in the run folder if it is one of this stage.

    `first` counts the steps of earlier stages; the log and the mixture number steps over all stages. Writes
    metrics.jsonl, `checkpoint/` and, whenever the mean mIoU of `evaluate` is the best of the stage so far, `best/`.
    What was trained is saved before it is evaluated; a run that ends in an evaluation goes on with it.
    With several processes every one calls this with its `accelerator`, and `evaluate` must return the same in all.
    One of `signals` to any of them ends all of them after the same step, which is saved; in an evaluation, at once.
    Raises UserError for a loss that is not finite, a checkpoint that is damaged or does not fit, and a full disk; and
    Interrupted for a signal.
    """
    check_trackers(options.track)
    with _deterministic(options.deterministic):
        known = accelerator or find_processes(), signals or StopSignals()
        _Stage(method, mixture, options, folder, evaluate, seed, stage, first, *known).run()


class _Stage:
    """One stage in progress: everything that a step reads and changes."""

    def __init__(
        self,
        method: Method,
        mixture: Mixture,
        options: TrainOptions,
        folder: Path,
        evaluate: Evaluate,
        seed: int,
        stage: str,
        first: int,
        accelerator: Accelerator,
        signals: StopSignals,
    ) -> None:
        self.method, self.mixture, self.options, self.folder = method, mixture, options, folder
        self.evaluate, self.seed, self.stage, self.first = evaluate, seed, stage, first
        self.accelerator, self.signals = accelerator, signals
        self.device = self.accelerator.device
        method.mean = options.mean or method.mean
        if options.precision == "fp16" and self.device.type == "cpu":
            raise UserError("train.precision is fp16, which needs a GPU; use bf16 or fp32")
        check_sharding(options, accelerator.num_processes)
        self.model = self._prepare()
        self.state = TrainingState(method, options, self.device)
        self.step, self.end = first, first + options.steps
        self.best: float | None = None
        self.evaluated = False
        self.seconds = 0.0
        self.agreement = Agreement(accelerator)
        self.losses = LossAccumulator()
        self.first_steps = FirstSteps(method, self.device, options.compile or options.shard)
        self.waited = 0.0
        self.features = FeatureCache(method.pixel_encoder.backbone.net)

    def run(self) -> None:
        """Train to the end of the stage."""
        problems = self._restore()
        main = self.accelerator.is_main_process
        log = MetricsLog(self.folder, self.end, self.options.track, active=main)
        with log as self.log, self.signals.held():
            for problem in problems:
                self.log.say(f"warning: {problem}")
            self.saved = self.window = time.perf_counter()
            self.started = self.saved - self.seconds
            self.method.train()
            if self._evaluates() and not self.evaluated:
                self._evaluate()
            # Closed, so that no worker is left however this ends.
            with closing(self._draws()) as draws:
                while self.step < self.end:
                    self._update(draws)
                    self.step += 1
                    self.first_steps.stepped()
                    self._report()

    # One step.

    def _update(self, draws: Iterator[tuple[Batch, ...]]) -> None:
        """Take one step; nothing in here waits for the device."""
        taken = self.step - self.first
        seed_everything(self.seed, self.step)
        # Before the processes' seeds part: what a method draws here is the same everywhere.
        self.method.on_step(taken)
        self.state.set_rate(rate(taken, self.options))
        for draw in range(self.options.accumulate):
            last = draw == self.options.accumulate - 1
            with nullcontext() if last else self._adding_up():
                batches = self._next(draws)
                # After the batch is there: a loader that starts draws a number too.
                seed_everything(self.seed, self.step, 1 + self.accelerator.process_index, draw)
                with _threads(batches), memory_named(self.step, batches):
                    with self._autocast(), self.first_steps.forward():
                        losses = self.model(batches)
                    self.state.backward(self.losses.add(self.step, losses, batches) / self.options.accumulate)
        self.state.update(taken)

    @contextmanager
    def _adding_up(self) -> Iterator[None]:
        """Let gradients add up in every process by itself; the last draw of a step takes the mean over processes."""
        trunk = cast(Any, self.method.pixel_encoder.backbone.net)
        if self.options.shard:
            trunk.set_requires_gradient_sync(False)
        with self.accelerator.no_sync(self.model):
            yield
        if self.options.shard:
            trunk.set_requires_gradient_sync(True)

    def _draws(self) -> Generator[tuple[Batch, ...]]:
        k = self.options.accumulate
        yield from self.mixture.loader(self.step * k, self.end * k, pin_memory=self.device.type == "cuda")

    def _next(self, draws: Iterator[tuple[Batch, ...]]) -> list[Batch]:
        start = time.perf_counter()
        batches = next(draws)
        self.waited += time.perf_counter() - start
        order = torch.channels_last if self.options.channels_last else torch.contiguous_format
        moved = [b.to(self.device) for b in batches]
        return [b._replace(image=b.image.contiguous(memory_format=order)) for b in moved]

    # What happens between steps.

    def _report(self) -> None:
        """Log, save and evaluate, each when its time has come; an evaluation can fail, so a checkpoint comes first.

        Raises Interrupted after saving, if any process has got a signal.
        """
        o, done, evaluates = self.options, self.step - self.first, self._evaluates()
        late = 0 < 60 * o.checkpoint_minutes <= time.perf_counter() - self.saved
        # All processes do the same: no signal is number 0, so 1 stands for a checkpoint that is due.
        request = self.agreement.largest(self.signals.received + 1 if self.signals.received else int(late))
        saves = request or evaluates or done % o.checkpoint_every == 0
        if saves or done % o.log_every == 0:
            self._log()
        if saves:
            self._check_weights()
            self._save()
        if request > 1:
            raise Interrupted(request - 1)
        if evaluates:
            self._evaluate()

    def _evaluates(self) -> bool:
        """Say whether an evaluation is due after the steps done."""
        o, done = self.options, self.step - self.first
        return self.step == self.end or bool(done and o.eval_every and done % o.eval_every == 0)

    def _log(self) -> None:
        """Write the mean of the losses since the last line; the only place where the host waits for the device."""
        images = self.losses.images * self.accelerator.num_processes
        loss, losses = self.losses.close(self.accelerator.gather, self.accelerator.process_index)
        now = time.perf_counter()
        line = {
            "step": self.step - 1,
            "stage": self.stage,
            "loss": loss,
            "losses": losses,
            "lr": self.state.learning_rate,
            "images_per_s": round(images / (now - self.window), 2),
            "data_wait": round(self.waited / (now - self.window), 4),
            "seconds": round(now - self.started, 3),
        }
        self.log.write(line)
        if measured := self.first_steps.line():
            self.log.say(measured)
        self.waited, self.window = 0.0, now

    def _check_weights(self) -> None:
        """Raise if a weight is not finite: a finite loss can have had a gradient that was not."""
        weights = [local(v) for v in self.method.state_dict().values() if v.is_floating_point()]
        # Of a trunk that is divided every process has another part.
        finite = not weights or bool(torch.stack([v.isfinite().all() for v in weights]).all())
        if self.agreement.largest(int(not finite)):
            raise UserError(
                f"after step {self.step - 1} weights are not finite though the losses were; they were not saved; lower "
                f"train.lr or set train.clip, {checkpoint.ANEW}"
            )

    def _evaluate(self) -> None:
        self.method.eval()
        average = self.state.average
        with average.swapped() if average else nullcontext(), torch.no_grad(), self._autocast():
            self._share_buffers()
            with self._trunk(), self._features(), self.signals.held(False), self.log.paused():
                scores = self.evaluate(self.method)
            known = [s["miou"] for s in scores.values() if s["miou"] is not None]
            mean = float(np.mean(known)) if known else None
            value = -math.inf if mean is None else mean
            if self.best is None or value >= self.best:
                self.best = value
                state = {"stage": self.stage, "step": self.step, "mean_miou": mean}
                self._write("best", {"model": gathered(self.method.state_dict())}, state)
                checkpoint.discard_previous(self.folder / "best")
        # Last: an evaluation without this line is made again.
        self.log.write({"step": self.step, "stage": self.stage, "eval": scores, "mean_miou": mean})
        self.method.train()
        self.window = time.perf_counter()

    def _share_buffers(self) -> None:
        """Give all processes the first one's statistics of batch norms, so that all evaluate the same network."""
        if self.accelerator.num_processes > 1:
            for buffer in self.method.buffers():
                dist.broadcast(buffer, 0)

    def _features(self) -> AbstractContextManager[None]:
        """Keep what a frozen trunk gives where more evaluations follow; a compiled network is no Python any more."""
        o = self.options
        return self.features.used() if o.eval_every and not (o.compile or o.shard) else nullcontext()

    def _trunk(self) -> AbstractContextManager[None]:
        return whole_trunk(self.method) if self.options.shard else nullcontext()

    def _save(self) -> None:
        self.log.sync()
        files, other = self.state.to_files()
        seconds = time.perf_counter() - self.started
        self._write("checkpoint", files, {"stage": self.stage, "step": self.step, "seconds": seconds, **other})
        self.saved = self.window = time.perf_counter()

    def _write(self, name: str, files: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            checkpoint.write(self.folder / name, files, state)
        self.accelerator.wait_for_everyone()

    # Before the first step.

    def _prepare(self) -> nn.Module:
        """Put the method onto the device in place, and return what to call: itself, or its distributed wrapper."""
        if not self.options.backbone_lr_factor:
            self.method.pixel_encoder.backbone.freeze()
        if self.accelerator.num_processes > 1 and self.device.type == "cuda":
            from timm.layers import convert_sync_batchnorm  # torch's own does not know timm's fused norms

            convert_sync_batchnorm(self.method)
        if self.options.channels_last:
            self.method.pixel_encoder.to(memory_format=torch.channels_last)
        if self.options.compile:
            # The network alone: a batch's ids and label space would be compiled in, anew for every step.
            self.method.pixel_encoder.compile()
        if self.options.shard:
            shard(self.method.to(self.device), self.device)
        return cast(nn.Module, self.accelerator.prepare_model(self.method))

    def _autocast(self) -> torch.autocast:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.options.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def _restore(self) -> list[str]:
        """Go on from the run folder's checkpoint if it is of this stage; return what was found damaged."""
        place, log = self.folder / "checkpoint", self.folder / "metrics.jsonl"
        main = self.accelerator.is_main_process
        damaged = checkpoint.recover(place) if main else ""
        self.accelerator.wait_for_everyone()
        if place.exists() and (saved := checkpoint.read(place)).state["stage"] == self.stage:
            self.state.load(saved)
            self.step, self.seconds = int(saved.state["step"]), float(saved.state["seconds"])
        if main:
            cut(log, self.step)
        self.accelerator.wait_for_everyone()
        problems = [f"{damaged}; going on from the checkpoint before it, after {self.step} steps"] if damaged else []
        return problems + self._restore_best(evaluated_steps(log))

    def _restore_best(self, evaluated: Collection[int]) -> list[str]:
        """Take over how good the weights in `best/` are, and whether the steps done have been evaluated."""
        place = self.folder / "best"
        try:
            saved = checkpoint.read(place) if place.exists() else None
        except UserError as e:
            return [f"{e}; the best weights are lost, those of the next evaluation take their place"]
        if saved is not None and saved.state["stage"] == self.stage:
            mean = saved.state["mean_miou"]
            self.best = -math.inf if mean is None else mean
            self.evaluated = self.step in evaluated
        return []


@contextmanager
def _threads(batches: Sequence[Batch]) -> Iterator[None]:
    """Compute a small step on the CPU with fewer threads: as many as its pixels say, so that a run is repeatable."""
    before = torch.get_num_threads()
    pixels = sum(b.image.shape[0] * b.image.shape[-2] * b.image.shape[-1] for b in batches if not b.image.is_cuda)
    torch.set_num_threads(threads_for(pixels, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _deterministic(on: bool) -> Iterator[None]:
    """Ask for deterministic kernels for a while; an operation that has none warns."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
