"""The workbench of a run's labels: the explorer's page, with what was corrected kept in files beside the run."""

from __future__ import annotations

import asyncio
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel, ValidationError

from manyseg import atomic
from manyseg.errors import UserError
from manyseg.explorer.crops import example_crops
from manyseg.explorer.page import explorer_page
from manyseg.labels import Taxonomy
from manyseg.models.text import has_offline_encoder
from manyseg.relate import By, Constraints
from manyseg.runs.propose import Source, open_source, propose_labels
from manyseg.serve.images import RequestError
from manyseg.serve.served import Served

__all__ = ["WORKBENCH_POLICY", "Workbench"]

WORKBENCH_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page is the file that `manyseg labels --html` writes, with its script inside; names in it are escaped."""


class _Corrected(BaseModel):
    """What the page sends: the two files as text."""

    table: str
    constraints: str


class Workbench:
    """The page of one run, and its two files: `RUN.taxonomy.tsv` and `RUN.constraints.toml` beside the run's folder."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self._one = asyncio.Lock()  # Evidence takes seconds and much memory: one page is made at a time.

    async def page(self, address: str) -> str:
        """Return the page, which posts to `address` where the run is on this disk."""
        async with self._one:
            return await asyncio.to_thread(self._page, address)

    async def save(self, content: bytes) -> list[str]:
        """Check and keep what the page sent; return the names of the files."""
        async with self._one:
            return await asyncio.to_thread(self._save, content)

    @property
    def files(self) -> tuple[Path, Path] | None:
        """The table and the constraints, or None for a run of the hub, which is not ours to write beside."""
        folder = self.served.folder
        if folder is None:
            return None
        folder = folder.resolve()
        return folder.with_name(f"{folder.name}.taxonomy.tsv"), folder.with_name(f"{folder.name}.constraints.toml")

    @cached_property
    def _source(self) -> Source:
        return open_source([self.served.run.folder])

    @cached_property
    def _crops(self) -> dict[tuple[str, str], list]:  # type: ignore[type-arg]
        return dict(example_crops(self._source.folders))

    def _page(self, address: str) -> str:
        run, spaces = self.served.run, self.served.run.spaces
        table, constraints = self.files or (None, None)
        by: By = "text" if has_offline_encoder() else "names"
        kept = constraints if constraints and constraints.exists() else None
        decided = Constraints.read(kept, spaces) if kept else Constraints()
        proposal = propose_labels([run.folder], by=by, constraints=kept)
        own = self.served.model.taxonomy
        shown = own if own.shared else proposal.taxonomy
        if table and table.exists():
            shown = Taxonomy.read(table, spaces)
        save = address if table else ""
        return explorer_page(shown, proposal.pairs, self._crops, decided=decided, save=save)

    def _save(self, content: bytes) -> list[str]:
        if self.files is None:
            raise RequestError(409, "the run is on a hub, not on this disk; download the files instead")
        try:
            given = _Corrected.model_validate_json(content)
        except ValidationError:
            raise RequestError(422, "send a JSON object with the texts 'table' and 'constraints'") from None
        spaces, texts = self.served.run.spaces, (given.table, given.constraints)
        with TemporaryDirectory() as folder:
            aside = [atomic.write(Path(folder) / file.name, t) for file, t in zip(self.files, texts, strict=True)]
            try:
                Taxonomy.read(aside[0], spaces)
                Constraints.read(aside[1], spaces).check(spaces)
            except UserError as e:
                raise RequestError(422, str(e).replace(f"{folder}/", "")) from None
        for file, text in zip(self.files, texts, strict=True):
            atomic.write(file, text)
        return [file.name for file in self.files]
