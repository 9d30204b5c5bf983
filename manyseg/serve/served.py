"""A run as it is served: its model, and the label spaces that strangers may ask for, by name or by words."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from manyseg.errors import UserError
from manyseg.inference.encoded_images import OutputSpace
from manyseg.labels import LabelSpace
from manyseg.prediction.model import HIERARCHY, Model
from manyseg.runs.run import Run
from manyseg.serve.images import RequestError

__all__ = ["Served"]

MOST_WORDS = 100
"""Words that may be asked for at once, and ..."""

LONGEST = 4000
"""... the characters that they have together."""


class Served:
    """A run's model under a `name`; `folder` is None where the run is not on this disk but on a hub."""

    def __init__(self, name: str, run: Run, model: Model, folder: Path | None) -> None:
        self.name, self.run, self.model, self.folder = name, run, model, folder

    @cached_property
    def spaces(self) -> dict[str, LabelSpace]:
        """The label spaces by name: "unified", every dataset's, and "hierarchy" where there is one."""
        taxonomy, hierarchy = self.model.taxonomy, self.model.method.hierarchy
        out = {space.name: taxonomy.painted(space) for space in (taxonomy.unified, *self.model.spaces)}
        if hierarchy is not None:
            out.setdefault(HIERARCHY, taxonomy.painted(hierarchy.space))  # A dataset may be called so itself.
        return out

    @property
    def default(self) -> str:
        """The labels to begin with: the unified ones, or the first dataset's where datasets share no node."""
        taxonomy = self.model.taxonomy
        return taxonomy.unified.name if taxonomy.shared or len(taxonomy.spaces) == 1 else taxonomy.spaces[0].name

    @property
    def reads_words(self) -> bool:
        """Whether any words can be asked for."""
        return self.model.method.reads_words

    def output(self, labels: str) -> OutputSpace:
        """Return a label space to predict, by its name or by words that commas part.

        Nothing that is asked for is taken as a path. Raises RequestError for what the model cannot predict.
        """
        if labels in self.spaces:
            return OutputSpace(self.spaces[labels])
        known = ", ".join(self.spaces)
        if not self.reads_words:
            raise RequestError(422, f"there are no labels '{labels[:100]}' in this run; there are: {known}")
        words = [w.strip() for w in labels.split(",") if w.strip()]
        if not words or len(words) > MOST_WORDS or len(labels) > LONGEST:
            raise RequestError(422, f"give 1 to {MOST_WORDS} words with commas between them, or one of: {known}")
        try:
            return OutputSpace(self.model.taxonomy.painted(LabelSpace.of("words", dict.fromkeys(words))))
        except UserError as e:
            raise RequestError(422, str(e)) from None
