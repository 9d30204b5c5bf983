"""A run is a folder: from a recipe to its files, and from its files back to a model.

`checkpoint/` is where training goes on, `best/` the weights with the best mean mIoU, `stages/<name>/` what earlier
stages ended with. `recipe.toml`, `spaces.json`, `files/` and weights are all that predicting needs.

Each function loads what it needs: a mistake in a recipe is found before the deep-learning framework is there.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from manyseg import atomic
from manyseg.config import listed, toml_value
from manyseg.errors import Interrupted, UserError
from manyseg.inference.options import PHOTOS, DecisionOptions, TestOptions, ViewOptions
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.labels.files import read_spaces
from manyseg.runs.folder import RunFolder
from manyseg.runs.hub import download, hub_address
from manyseg.runs.recipe import Recipe, RecipeSource, build_method, read_recipe

if TYPE_CHECKING:
    from manyseg.methods.base import Method
    from manyseg.prediction.model import Model

__all__ = [
    "Recipe",
    "Run",
    "load",
    "read_recipe",
    "train_recipe",
]


@dataclass(frozen=True)
class Run:
    """A run's folder, read: `spaces` are the training datasets' label spaces, in recipe order."""

    folder: Path
    recipe: Recipe
    spaces: tuple[LabelSpace, ...]

    @classmethod
    def open(cls, folder: str | Path, overrides: Sequence[str] = ()) -> Run:
        """Read a run's recipe and label spaces; raises UserError naming what is missing or damaged.

        `folder` may be a place on the hub, `hf://user/name[@revision]`.
        `overrides` like `test.flip=true` change how images are predicted; what the network was trained with stays.
        """
        if (address := hub_address(folder)) is not None:
            folder = download(address)
        folder = Path(folder)
        if not (folder / "recipe.toml").is_file():
            raise UserError(f"{folder}: no run is there (no recipe.toml); give the folder of a run")
        overrides = listed(overrides)
        if past := [o for o in overrides if not o.startswith("test.")]:
            raise UserError(
                f"--set {past[0]}: a run is trained already; only keys of [test] can be set, as test.flip=true"
            )
        RunFolder(folder).check("recipe.toml", "spaces.json", "files/*", "stages/*.tsv", "stages/*.npz")
        return cls(folder, read_recipe(folder / "recipe.toml", overrides), read_spaces(folder / "spaces.json"))

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The unified label space that the run ended with, or has reached."""
        RunFolder(self.folder).check("taxonomy.tsv")
        return Taxonomy.read(self.folder / "taxonomy.tsv", self.spaces)

    @property
    def photo_options(self) -> TestOptions:
        """How photos of any size are seen: as the recipe's [test] says, else made smaller where they are large."""
        test = self.recipe.test
        decisions = {key: getattr(test, key) for key in DecisionOptions.model_fields}
        if test.of("") != TestOptions(**decisions):
            return test
        # With every key, so that what is chosen here for photos is nothing to a dataset with a table of its own.
        sets = {name: ViewOptions(**test.of(name).model_dump(exclude={"sets"})) for name in test.sets}
        return PHOTOS.model_copy(update={**decisions, "sets": sets})

    def load_model(self, which: str = "best") -> Method:
        """Load the model, ready to predict, onto the GPU if there is one.

        "best" has the best mean mIoU (and averaged weights where the recipe says so), "last" is the newest checkpoint.
        Raises UserError naming the file that is missing, damaged or does not fit.
        """
        import torch

        from manyseg.training import checkpoint

        places = {"best": "best", "last": "checkpoint"}
        if which not in places:
            raise UserError(f"'{which}' is no checkpoint of a run; choose one of: {', '.join(places)}")
        saved = checkpoint.read(self.folder / places[which])
        stage = next((s for s in self.recipe.stages if s.name == saved.state.get("stage")), None)
        if stage is None:
            raise UserError(
                f"{saved.folder}: of stage '{saved.state.get('stage')}', which the run's recipe does not have; restore "
                "the recipe, or train the run again"
            )
        method = build_method(self.recipe, stage, self.spaces, self.folder, pretrained=False)
        saved.load_into(method)
        if stage.train.channels_last:
            method.pixel_encoder.to(memory_format=torch.channels_last)
        return method.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def load_for_images(self) -> Model:
        """Load the best weights to predict images alone: faster than `load_model`, and not to be trained on.

        Batch norms are folded into convolutions, which changes no more than rounding.
        """
        import torch

        from manyseg.models.folding import fold_batch_norms
        from manyseg.prediction.model import Model

        method = self.load_model()
        image = torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        fold_batch_norms(method.pixel_encoder, image.to(method.device))
        return Model(method, self.spaces, self.photo_options)


def load(folder: str | Path, *, which: str = "best", device: str | None = None, overrides: Sequence[str] = ()) -> Model:
    """Load a run's model, ready to predict images; see `Model.predict`.

    `folder` is a run's, or a place on the hub, `hf://user/name[@revision]`, from where it is fetched.
    `which` is "best" (weights of the best mean mIoU) or "last" (the newest checkpoint). `device` is a torch device such
    as "cuda:1"; without it, the first GPU is taken if there is one. `overrides` such as `test.flip=true` change how
    images are seen. Raises UserError naming what is missing or damaged.
    """
    from manyseg.prediction.model import Model

    run = Run.open(folder, overrides)
    method = run.load_model(which)
    return Model(method if device is None else method.to(device), run.spaces, run.photo_options)


def train_recipe(
    recipe: RecipeSource,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    data_root: str | Path | None = None,
    start: str | Path | None = None,
    overrides: Sequence[str] = (),
    check: bool = True,
    dry_run: bool = False,
) -> Path:
    """Train what a recipe describes, evaluate it, write its report, and return the run's folder.

    `recipe` is a file, or a mapping of the tables that such a file has. `out` defaults to `runs/<the file's name>`, for
    a mapping to `runs/recipe`. With `resume` a run that was stopped goes on where it was; without, an
    existing run is refused, and so is always a folder into which another process writes. `data_root` is where relative
    roots of datasets start; see `read_recipe`. `start` is a trained run from whose weights this one goes on, with the
    labels that it had, and others. Without `check`, files are not checked before the first step. With `dry_run` it is
    printed what the run would do and need, and nothing is written; see `manyseg.runs.dry_run`. SIGINT, SIGTERM and
    SIGHUP end the run after the step in hand, which is saved, with Interrupted; in an evaluation they end it at once,
    as what was trained is saved by then. Launched by torchrun or accelerate, every process calls this; what torchrun
    starts again goes on as with `resume`.
    """
    # A run that torchrun starts again after a fault goes on by itself.
    resume = resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    overrides = listed(overrides)
    assignments = [*overrides]
    if start is not None:
        place = hub_address(start) or os.path.abspath(start)
        assignments.append(f"start={toml_value(place)}")
    read = read_recipe(recipe, assignments, data_root)
    from manyseg.runs.fit import fitted
    from manyseg.runs.stages import Training
    from manyseg.runs.start import Start
    from manyseg.stop_signals import StopSignals
    from manyseg.training.processes import find_processes, lost_another

    folder = Path(out) if out is not None else Path("runs") / read.file.stem
    atomic.check_target(folder / "recipe.toml")
    accelerator = find_processes()
    before = Start.of(read, folder)
    choices = fitted(read, RunFolder(folder), accelerator)
    if choices:
        read = read_recipe(recipe, [*assignments, *choices], data_root)
    if before is not None:
        read = before.fitted(read)
    with StopSignals() as signals:
        training = Training(read, RunFolder(folder), accelerator, signals, before)
        if dry_run:
            from manyseg.runs.dry_run import dry_run as report

            report(training)
            return folder
        try:
            with training.locked():
                if training.prepare(resume, check=check):
                    training.run(resume)
                elif training.main:
                    print(f"{folder}: this run is finished; nothing to do")
        except Interrupted as e:
            words = ["manyseg", "train", str(read.file), "--out", str(folder), "--resume"]
            words += [] if data_root is None else ["--data-root", str(data_root)]
            words += [] if start is None else ["--from", str(start)]
            words += [] if check else ["--no-check"]
            words += [w for o in overrides for w in ("--set", o)]
            command = shlex.join(words) if isinstance(recipe, str | Path) else "the same call with resume=True"
            raise Interrupted(e.signal, f"{e}: {training.outcome(command)}" if training.main else "") from None
        except RuntimeError as e:
            if training.accelerator.num_processes == 1 or not lost_another(e):
                raise
            raise UserError(f"{folder}: another process of this run has ended, and says why; this one ends too") from e
        except OSError as e:
            if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            raise UserError(f"{folder}: cannot be written ({e}); make room there, then go on with --resume") from e
    return folder
