"""Masks whose colours hold class and object, with a JSON beside each that names the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from manyseg.data.encodings.schema import load_json
from manyseg.data.guess.draft import Draft, FoundClass, joined_by_name
from manyseg.data.guess.splits import arranged
from manyseg.data.guess.tree import Tree, pairings, spread
from manyseg.errors import UserError

__all__ = ["red_green_drafts"]

READ = 5000
"""Files whose classes are gathered."""


class _Object(msgspec.Struct):
    name: str
    number: int = msgspec.field(name="name_ndx")
    parts: dict[str, Any] = {}


class _Annotation(msgspec.Struct):
    object: list[_Object]


class _File(msgspec.Struct):
    annotation: _Annotation


def red_green_drafts(tree: Tree) -> Iterator[Draft]:
    """Yield a draft if photos have a JSON with numbered names, and a mask of the same name."""
    jsons = tree.ending_in(".json")
    for pair in pairings(tree.images, jsons)[:1] if jsons else []:
        names: dict[int, str] = {}
        most = Counter[int]()
        for place in spread(pair.both, READ):
            try:
                objects = load_json(tree.path(pair.others[place]), _File).annotation.object
            except (UserError, msgspec.ValidationError):
                return
            whole = [o for o in objects if not o.parts.get("part_level")]
            names.update({o.number: o.name for o in whole})
            most |= Counter(o.number for o in whole)
        masks = [m for m in pairings(tree.images, tree.ending_in(".png")) if m.image == pair.image]
        for mask in [m for m in masks if m.other.endswith("_seg.png")][:1]:
            usable = [p for p in mask.both if p in pair.others]
            found_splits = arranged(tree, {"image": mask.image, "mask": mask.other}, mask.images, usable)
            several = any(count > 1 for count in most.values())
            found = [FoundClass(names[n], (n,), None, most[n] > 1 or not several) for n in sorted(names)]
            unsure = ["classes that have several objects in an image are taken to be countable; see `thing`"]
            saw = [f"{len(usable)} pairs {mask.image} and {mask.other}, with names in {pair.other}"]
            yield Draft(
                "the full annotation of ADE", 2, "ade_full", found_splits, joined_by_name(found), (0,), {}, saw, unsure
            )
