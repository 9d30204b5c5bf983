"""From folders of datasets to a recipe that trains: what `manyseg init` does."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from manyseg import atomic
from manyseg.config import toml_value
from manyseg.data.card import read_card
from manyseg.data.folder import Folder
from manyseg.data.guess import Candidate, guess
from manyseg.data.hub_sets import set_address
from manyseg.errors import UserError
from manyseg.relate.statistics import UNIFIED

__all__ = ["asked_folders", "init_recipe"]

CROP = (64, 512)
"""Smallest and largest side of the crop, in pixels."""

IMAGES = 9
"""Images of a step in all, at most; at least one of each dataset."""

LOOKED_AT = 20
"""Images of a dataset whose sizes are read."""


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
    sizes = {one.name: _size(one) for one in found}
    atomic.write(out, _recipe(found, sizes, out))
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


def _size(found: _Found) -> int:
    """Return the median of the shorter sides of a dataset's images."""
    folder = Folder(read_card(found.card), found.root)
    step = max(1, len(folder) // LOOKED_AT)
    return int(median(min(folder.size(i)) for i in range(0, len(folder), step)))


def _recipe(found: Sequence[_Found], sizes: Mapping[str, int], out: Path) -> str:
    smallest, largest = CROP
    crop = max(smallest, min(largest, min(sizes.values()) // 32 * 32))
    per_step = max(1, IMAGES // len(found))
    sets = []
    for one in found:
        splits = one.candidate.splits
        entry = {"card": one.card.relative_to(out.parent).as_posix(), "root": _root(one.root, out.parent)}
        other = {} if "val" in splits else {"eval_split": next((s for s in splits if s != "train"), "train")}
        sets.append({**entry, "per_step": per_step, **other})
    large = [f"{name} ({size} pixels)" for name, size in sizes.items() if size > 3 * crop]
    hints = [f"# The crop shows a small part of the images of {', '.join(large)}: see short_side."] if large else []
    return "\n".join(
        [
            f"# {len(found)} datasets, one network." if len(found) > 1 else "# One dataset: more of them can join it.",
            "#",
            f"#   manyseg train {out} --out runs/a",
            "#",
            f"# On a CPU, begin with --set train.steps=100. `manyseg labels {out}` says what the labels mean together.",
            "# Without [method] the label space is found in training; others: README. Every key: docs/reference.md",
            "[data]",
            'root = "."  # Relative roots start from this file, whatever MANYSEG_DATA says.',
            *hints,
            f"crop = [{crop}, {crop}]",
            f"sets = {toml_value(sets)}",
            "",
            "[model]",
            'backbone = "tf_efficientnet_lite0"  # Any timm name; convnext_tiny is larger and better.',
            "",
            "[train]",
            "steps = 5000",
            "",
        ]
    )


def _root(folder: Path, base: Path) -> str:
    """Write a dataset's folder: from the recipe on if it lies below the recipe's folder, else in full."""
    if (address := set_address(folder)) is not None:
        return address
    place, start = folder.resolve(), base.resolve()
    return Path(os.path.relpath(place, start)).as_posix() if place.is_relative_to(start) else place.as_posix()
