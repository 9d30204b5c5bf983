"""The folder of a run: where its files are, what they must hold, and which of them are damaged.

`manifest.json` has the size and the SHA-256 of every file that a run wrote once and for all, or replaces as a whole.
`checkpoint/`, `best/` and the weights below `stages/` have their sums in a `state.json` of their own; `metrics.jsonl`
grows line by line. A file that is being replaced is not in the manifest until the new one is there, so that a run that
is killed leaves nothing that looks damaged.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from manyseg import atomic
from manyseg.errors import UserError

__all__ = ["RunFolder"]

UNFINISHED = ".writing"
"""The end of the name of a checkpoint's folder while it is written."""


class _Entry(BaseModel):
    """What a whole file is known by."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bytes: int
    sha256: str


class _Manifest(BaseModel):
    """The content of manifest.json: files by their paths in the folder."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    files: dict[str, _Entry]


class RunFolder:
    """A run's folder; reading it needs no lock, and it need not be there to be named."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.toml"
        self.spaces = self.path / "spaces.json"
        self.taxonomy = self.path / "taxonomy.tsv"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoint = self.path / "checkpoint"
        self.best = self.path / "best"
        self.report = self.path / "report.html"
        self.manifest = self.path / "manifest.json"

    def __str__(self) -> str:
        return str(self.path)

    def stage(self, name: str) -> Path:
        """Return where a finished stage keeps its weights, its tables and its statistics."""
        return self.path / "stages" / name

    @property
    def started(self) -> bool:
        """Whether a run is there that has taken a step; one that died before may be begun anew, by any recipe."""
        from manyseg.training import checkpoint

        saved = (self.checkpoint, checkpoint.previous(self.checkpoint), self.best, self.path / "stages")
        logged = self.metrics.exists() and self.metrics.stat().st_size > 0
        return self.recipe.exists() and (logged or any(place.exists() for place in saved))

    def check_new(self) -> None:
        """Raise UserError where a run is there."""
        if self.started:
            raise UserError(f"{self}: a run is there; go on with it by --resume, or choose another --out")

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end: the report is written last."""
        return self.report.exists()

    def check(self, *patterns: str) -> None:
        """Raise UserError for the first file of these names or patterns that is not as the run wrote it.

        Files that the manifest does not have are not looked at: they are being written, or it was removed on purpose.
        """
        wrong = self.damaged(*patterns)
        if wrong and wrong == self.damaged(*patterns):  # Once more: a run could have been replacing them just now.
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            path = self.path / wrong[0]
            state = "is not as the run wrote it" if path.is_file() else "is missing"
            raise UserError(
                f"{path}: {state}{more}: damaged or edited; restore it, or remove {self.manifest} to take all files as "
                "they are"
            )

    def damaged(self, *patterns: str) -> list[str]:
        """List the files of these names or patterns that are not as the manifest says."""
        entries = {n: e for n, e in self._entries().items() if any(fnmatchcase(n, p) for p in patterns)}
        return [name for name, entry in entries.items() if not self._whole(name, entry)]

    def recorded(self, name: str, content: bytes) -> bool:
        """Say whether the manifest has this content for the file."""
        return self._entries().get(name) == _entry(content)

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Replace the files that are to have another content, by their names in the folder; the others stay."""
        contents = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
        known, given = self._entries(), {n: _entry(c) for n, c in contents.items()}
        changed = {n: c for n, c in contents.items() if known.get(n) != given[n] or not self._whole(n, given[n])}
        with self.replacing(*changed):
            for name, content in changed.items():
                atomic.write(self.path / name, content)

    @contextmanager
    def replacing(self, *patterns: str) -> Iterator[None]:
        """Let the files of these names or patterns (`samples/*`) be written by whoever can, then take down their sums.

        Where the block fails the manifest does not have them.
        """
        entries = self._entries()
        kept = {name: e for name, e in entries.items() if not any(fnmatchcase(name, p) for p in patterns)}
        if kept.keys() != entries.keys():
            self._write_manifest(kept)
        yield
        if patterns:
            paths = [path for p in patterns for path in sorted(self.path.glob(p)) if path.is_file()]
            self._write_manifest(kept | {p.relative_to(self.path).as_posix(): _entry_of(p) for p in paths})

    def remove_unfinished(self) -> None:
        """Remove what a process that was killed had begun to write; only the writer of the run may call this."""
        for path in [*self.path.rglob(f"{atomic.PREFIX}*"), *self.path.rglob(f"*{UNFINISHED}")]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _whole(self, name: str, entry: _Entry) -> bool:
        path = self.path / name
        try:
            return path.stat().st_size == entry.bytes and entry == _entry_of(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return False

    def _entries(self) -> dict[str, _Entry]:
        try:
            return _Manifest.model_validate_json(self.manifest.read_bytes()).files
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValidationError) as e:
            raise UserError(
                f"{self.manifest}: damaged ({e.__class__.__name__}); remove it to take the run's files as they are"
            ) from None

    def _write_manifest(self, entries: Mapping[str, _Entry]) -> None:
        manifest = _Manifest(files=dict(sorted(entries.items())))
        atomic.write(self.manifest, manifest.model_dump_json(indent=1) + "\n")


def _entry_of(path: Path) -> _Entry:
    with path.open("rb") as file:
        return _Entry(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=file.tell())


def _entry(content: bytes) -> _Entry:
    return _Entry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
