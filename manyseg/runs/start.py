"""A trained run from whose weights another one goes on, with a label space that was corrected or more data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from manyseg.errors import UserError
from manyseg.methods.base import Method
from manyseg.runs.hub import hub_address
from manyseg.runs.recipe import Recipe
from manyseg.runs.run import Run
from manyseg.training import checkpoint

__all__ = ["Start"]


class Start(NamedTuple):
    """The run that a recipe starts from, and which of its weights: the last, or the best where it has no others."""

    run: Run
    which: str

    @classmethod
    def of(cls, recipe: Recipe, folder: Path) -> Start | None:
        """Open what the recipe starts from, if it names a run; `folder` is the new run's.

        Raises UserError where no run is there, and where it is the new run itself.
        """
        if recipe.start is None:
            return None
        place = recipe.start if hub_address(recipe.start) else recipe.base / recipe.start
        if isinstance(place, Path) and os.path.realpath(place) == os.path.realpath(folder):
            raise UserError(
                f"{folder}: a run cannot start from itself; go on with it by --resume, or choose another --out"
            )
        run = Run.open(place)
        return cls(run, "last" if (run.folder / "checkpoint").is_dir() else "best")

    @property
    def scores(self) -> Path | None:
        """The file of the scores that the run ended with, if it did."""
        path = self.run.folder / "scores.json"
        return path if path.is_file() else None

    def fitted(self, recipe: Recipe) -> Recipe:
        """Return the recipe for going on from this run: with its network, without stages that only lead to its model.

        Raises UserError where the recipe describes another network.
        """
        saved = checkpoint.read(self.run.folder / ("checkpoint" if self.which == "last" else "best"))
        kinds = {stage.name: stage.kind for stage in self.run.recipe.stages}
        return recipe.going_on(self.run.recipe, kinds.get(saved.state["stage"]), str(self.run.folder))

    def give(self, method: Method) -> str:
        """Let the method take over the run's weights, and say in one line what goes on, and what is new or gone."""
        old = self.run.load_model(self.which).to(method.device)
        return f"going on from the {self.which} weights of {self.run.folder}: {method.continue_from(old)}"
