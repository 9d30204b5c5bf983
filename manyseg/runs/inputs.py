"""What a run is made from, as it is kept in its folder: so that it can go on, and predict, without anything outside."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manyseg.config import flatten, read_toml, to_toml
from manyseg.errors import UserError
from manyseg.labels import LabelSpace
from manyseg.labels.files import spaces_to_json
from manyseg.methods.sources import propose_by_text
from manyseg.progress import WorkConsole
from manyseg.report.environment import environment
from manyseg.report.record import BEFORE
from manyseg.runs.folder import RunFolder
from manyseg.runs.recipe import Recipe

__all__ = ["RunInputs"]

HARMLESS = (
    "data.workers",
    "data.on_bad_file",
    "train.track",
    "train.shard",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
)
"""What may change on resuming: it decides how the run is read and written, not what it has computed so far."""

console = WorkConsole(soft_wrap=True, highlight=False, markup=False)


class RunInputs:
    """The recipe with all defaults, the files that its methods' options name, the label spaces and the environment.

    `before` are the scores of the run that this one starts from.
    """

    def __init__(
        self, recipe: Recipe, folder: RunFolder, spaces: Sequence[LabelSpace], before: Path | None = None
    ) -> None:
        self.folder, self.spaces = folder, spaces
        tree, self._files = recipe.portable(folder.path)
        if before is not None:
            self._files[BEFORE] = before
        self._text = to_toml(tree)

    def check(self) -> None:
        """Compare with what a run that exists was made from; raises UserError where the results would be others."""
        # A recipe that was damaged and is given once more is written once more.
        known = self.folder.recorded("recipe.toml", self._text.encode())
        if not known:
            self.folder.check("recipe.toml")
        self.folder.check("files/*", "stages/*.tsv", "stages/*.npz")
        changed = [] if known else _changes(read_toml(self.folder.recipe), tomllib.loads(self._text))
        changed += [k for k, source in self._files.items() if source and not _same(self.folder.path / k, source)]
        if changed:
            raise UserError(
                f"{self.folder}: the recipe is not the run's, changed are: {', '.join(changed)}; restore "
                f"them, or choose another --out"
            )

    def write(self) -> None:
        """Put everything into the folder; a table that is still to be proposed is."""
        kept = {name: source.read_bytes() if source else self._proposal(name) for name, source in self._files.items()}
        known = json.dumps(environment(), indent=1) + "\n"
        self.folder.write({**kept, "spaces.json": spaces_to_json(self.spaces), "environment.json": known})
        # Last: a folder with a recipe is a run that can be resumed.
        self.folder.write({"recipe.toml": self._text})

    def _proposal(self, name: str) -> bytes:
        """Return the table that the run trains on: the one that it has kept, else what `manyseg labels` proposes."""
        file = self.folder.path / name
        if file.exists() and self.folder.started:
            return file.read_bytes()
        taxonomy = propose_by_text(self.spaces)
        console.print(
            f"{file}: the label space that `manyseg labels` proposes, {len(taxonomy.unified)} nodes; to train another "
            "one, correct a copy and name it in method.taxonomy"
        )
        return taxonomy.to_tsv().encode()


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    old, new = flatten(before), flatten(after)
    return sorted(k for k in {*old, *new} if old.get(k) != new.get(k) and k not in HARMLESS)


def _same(a: Path, b: Path) -> bool:
    return a.exists() and (a.samefile(b) or a.read_bytes() == b.read_bytes())
