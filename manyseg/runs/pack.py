"""Packing every dataset of a recipe."""

from __future__ import annotations

from pathlib import Path

from manyseg.data.hub_sets import local_root
from manyseg.data.packing import SHARD_BYTES, print_pack
from manyseg.errors import UserError
from manyseg.runs.recipe import read_recipe

__all__ = ["pack_recipe"]


def pack_recipe(recipe: str | Path, out: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Pack each dataset of a recipe into the folder of `out` that has its card's name."""
    read = read_recipe(recipe)
    places: dict[str, tuple[str | Path, Path]] = {}
    for entry in (*read.data.sets, *read.data.unseen):
        name, root = entry.read_card(read.base).name, local_root(entry.root, read.base)
        if places.setdefault(name, (entry.card_place(read.base), root))[1] != root:
            raise UserError(f"{recipe}: two datasets are called '{name}'; give one of the cards another name")
    for name, (card, root) in places.items():
        print_pack(card, root, out / name, shard_bytes)
