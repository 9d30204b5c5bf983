"""From folders of datasets to a recipe that trains: what `manyseg init` does."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from manyseg import atomic
from manyseg.config import toml_value
from manyseg.data.guess import Candidate, guess
from manyseg.data.hub_sets import set_address
from manyseg.errors import UserError
from manyseg.relate.statistics import UNIFIED

__all__ = ["asked_folders", "init_recipe"]


class _Found(NamedTuple):
    """A dataset: its name, folder and card, and the best reading of it."""

    name: str
    root: Path
    card: Path
    candidate: Candidate


def asked_folders() -> list[Path]:
    """Ask a terminal for the folders of datasets, one a line, until an empty line; raises UserError where none is."""
    folders: list[Path] = []
    while sys.stdin.isatty():
        try:
            line = input(f"folder of dataset {len(folders) + 1} (nothing: that is all): ").strip()
        except EOFError:
            break
        if not line:
            break
        folder = Path(line).expanduser()
        if folder.is_dir() or set_address(line):
            folders.append(folder)
        else:
            print(f"{folder}: there is no such folder")
    if not folders:
        raise UserError(
            "manyseg init: no folder was given; name the folder of each dataset, as in: manyseg init data/a data/b"
        )
    return folders


def init_recipe(folders: Sequence[Path], out: Path, *, force: bool = False) -> None:
    """Guess the card of each folder, and write the cards and a recipe that trains on all of them; say what is next.

    The cards go to `cards/` beside the recipe. Raises UserError, before anything is written, where a folder is not
    understood, or a file is there already (unless `force`).
    """
    names = _names(folders)
    found = [_Found(n, f, out.parent / "cards" / f"{n}.toml", guess(f)[0]) for n, f in zip(names, folders, strict=True)]
    files = {path: text for one in found for path, text in one.candidate.files(one.card).items()}
    for path in (out, *files):
        atomic.check_target(path)
    there = [path for path in (out, *files) if path.exists()]
    if there and not force:
        raise UserError(f"{there[0]}: is there already; choose another name with -o, or replace it with --force")
    for path, text in files.items():
        atomic.write(path, text)
    atomic.write(out, _recipe(found, out))
    for one in found:
        unsure = len(one.candidate.unsure)
        ask = f"; with a question mark: {unsure}" if unsure else ""
        print(f"{one.card}: {one.candidate.summary()}{ask}")
    print(f"{out}: {len(found)} datasets; read the cards first, where they have a question mark")
    print(f"next: manyseg train {out} --out runs/a")


def _names(folders: Sequence[Path]) -> list[str]:
    """Name datasets by their folders, with the folder above where two are called alike."""
    names: list[str] = []
    for i, folder in enumerate(folders):
        if folder.resolve() in [f.resolve() for f in folders[:i]]:
            raise UserError(f"{folder}: is given twice; give every folder once")
        parts = [re.sub(r"[^\w.-]+", "-", p).strip("-.") for p in folder.resolve().parts]
        parts = [p for p in parts if p] or ["dataset"]
        if parts[-1] == UNIFIED:
            parts[-1] += "-1"
        longer = ["-".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        names.append(next((name for name in longer if name not in names), f"{longer[-1]}-{i}"))
    return names


def _recipe(found: Sequence[_Found], out: Path) -> str:
    sets = []
    for one in found:
        splits = one.candidate.splits
        entry = {"card": one.card.relative_to(out.parent).as_posix(), "root": _root(one.root, out.parent)}
        other = {} if "val" in splits else {"eval_split": next((s for s in splits if s != "train"), "train")}
        sets.append({**entry, **other})
    return "\n".join(
        [
            f"# {len(found)} datasets, one network." if len(found) > 1 else "# One dataset: more of them can join it.",
            "#",
            f"#   manyseg train {out} --out runs/a",
            "#",
            f"# `manyseg labels {out}` says what the labels mean together. Network, method, crop, steps and more are",
            "# chosen for the machine and the data when training starts, and said: write here what you want otherwise.",
            "# Every key: docs/reference.md",
            "[data]",
            'root = "."  # Relative roots start from this file, whatever MANYSEG_DATA says.',
            f"sets = {toml_value(sets)}",
            "",
            "# [model]",
            '# backbone = "convnext_tiny"  # Any timm name.',
            "# [train]",
            "# steps = 5000",
            "",
        ]
    )


def _root(folder: Path, base: Path) -> str:
    """Write a dataset's folder: from the recipe on if it lies below the recipe's folder, else in full."""
    if (address := set_address(folder)) is not None:
        return address
    place, start = folder.resolve(), base.resolve()
    return Path(os.path.relpath(place, start)).as_posix() if place.is_relative_to(start) else place.as_posix()
