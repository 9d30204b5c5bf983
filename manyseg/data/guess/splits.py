"""Which images are trained on and which are kept for evaluation: as the folder says, or else proposed."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from manyseg.data import pattern
from manyseg.data.guess.tree import SPLIT, Place, Tree
from manyseg.errors import UserError

__all__ = ["Arrangement", "arranged", "split_name"]

SHARE = 0.2
"""Part of the images that is proposed for evaluation."""

LARGEST_LIST = 1 << 26
"""Bytes; a longer text file is no list of images."""


@dataclass(frozen=True)
class Arrangement:
    """Patterns of a card with its splits.

    `splits` are values as cards have them; `lists` are ids of further splits, which are to be written beside the card.
    """

    patterns: Mapping[str, str]
    splits: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    saw: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()


def split_name(word: str) -> str:
    """Return what we call a split that a folder or file calls `word`."""
    word = word.lower()
    return "train" if word.startswith("train") else "test" if word.startswith("test") else "val"


def arranged(
    tree: Tree, patterns: Mapping[str, str], images: Mapping[Place, str], usable: Collection[Place]
) -> Arrangement:
    """Find the splits of `usable` images among all that the pattern `image` matches, and change patterns as needed."""
    left_out = sorted(images.keys() - set(usable))
    unsure: tuple[str, ...] = ()
    if left_out:
        example = images[left_out[0]]
        unsure = (f"{len(left_out)} images have no annotation and are left out, such as {example}",)
    words = sorted({split for split, _ in usable})
    names = {split_name(w) for w in words if w}
    if len(names) == len(words) > 1 and "train" in names:
        return _in_folders(patterns, words, {s for s, _ in left_out} & set(words), usable, unsure)
    if words != [""]:
        # One split alone, or none to train on: the folders say nothing that helps.
        patterns, images, usable = _without_splits(patterns, words, images, usable)
    ids = sorted(i for _, i in usable)
    found = dict(_listed(tree, {i: images["", i] for i in ids}))
    if "train" in found and len(found) > 1:
        return _in_lists(patterns, found, unsure)
    known = sorted({i for _, listed in found.values() for i in listed}) or ids
    lists, how = _proposed(known)
    return Arrangement(patterns, {}, lists, (), (*unsure, how))


def _evaluated(splits: dict[str, str]) -> tuple[str, ...]:
    """Take the test split for evaluation where there is no other."""
    if "val" in splits or "test" not in splits:
        return ()
    splits["val"] = splits.pop("test")
    return ("there is no split for evaluation during development; `val` is the folder's own test split",)


def _in_folders(
    patterns: Mapping[str, str], words: list[str], partly: set[str], usable: Collection[Place], unsure: tuple[str, ...]
) -> Arrangement:
    splits = {split_name(w): w for w in sorted(words, key=lambda w: ("train", "val", "test").index(split_name(w)))}
    counts = ", ".join(f"{sum(s == w for s, _ in usable)} in '{w}'" for w in splits.values())
    saw = (f"splits are folders: {counts}",)
    if not partly:
        unsure = (*unsure, *_evaluated(splits))
        return Arrangement(patterns, splits, {}, saw, unsure)
    # Lists name what has an annotation, and the folder becomes a part of the id.
    renamed = {k: p.replace("{split}", "{subset}").replace("{id}", "{frame}") for k, p in patterns.items()}
    lists = {name: sorted(f"{s}/{i}" for s, i in usable if s == word) for name, word in splits.items()}
    if any("/" in i for _, i in usable) and "{scene}" not in patterns["image"]:
        return Arrangement(patterns, splits, {}, saw, (*unsure, "these images are errors until they are removed"))
    taken = dict.fromkeys(lists, "")
    unsure = (*unsure, *_evaluated(taken))
    if set(taken) != set(lists):
        lists["val"] = lists.pop("test")
    return Arrangement(renamed, {}, lists, saw, unsure)


def _without_splits(
    patterns: Mapping[str, str], words: list[str], images: Mapping[Place, str], usable: Collection[Place]
) -> tuple[Mapping[str, str], Mapping[Place, str], list[Place]]:
    """Write a split's folder into the patterns, or make folders a part of the id where there are several."""
    if len(words) == 1:
        plain = {k: p.replace("{split}", words[0]) for k, p in patterns.items()}
        return plain, {("", i): f for (s, i), f in images.items() if s == words[0]}, [("", i) for _, i in usable]
    plain = {k: p.replace("{split}", "{subset}").replace("{id}", "{frame}") for k, p in patterns.items()}
    return plain, {("", f"{s}/{i}"): f for (s, i), f in images.items()}, [("", f"{s}/{i}") for s, i in usable]


def _in_lists(
    patterns: Mapping[str, str], found: dict[str, tuple[str, list[str]]], unsure: tuple[str, ...]
) -> Arrangement:
    order: dict[str, str] = {name: "" for name in ("train", "val", "test") if name in found}
    unsure = (*unsure, *_evaluated(order))
    if "test" not in order and "val" not in found:
        found["val"] = found.pop("test")
    splits = {name: found[name][0] for name in order if found[name][0]}
    lists = {name: found[name][1] for name in order if not found[name][0]}
    both = set(found["train"][1]) & set(found["val"][1])
    if both:
        unsure = (*unsure, f"{len(both)} images are in the lists of train and val, such as {min(both)}")
    counts = ", ".join(f"{name} {len(found[name][1])}" for name in order)
    return Arrangement(patterns, splits, lists, (f"splits are lists: {counts}",), unsure)


def _listed(tree: Tree, images: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, list[str]]]]:
    """Yield the splits that text files list: (name, (file, or "" where it cannot be used as it is; ids))."""
    by_name = defaultdict(list)
    for i, file in images.items():
        by_name[PurePosixPath(file).stem].append((i, PurePosixPath(file).with_suffix("").parts))
    found: dict[str, list[tuple[bool, int, str, list[str], bool]]] = defaultdict(list)
    for file in tree.ending_in(".txt", ".lst"):
        stem = PurePosixPath(file).stem
        word = SPLIT.search(stem)
        name = split_name(word[1]) if word else "all" if stem.lower() in ("default", "all", "trainval") else ""
        if not name or tree.path(file).stat().st_size > LARGEST_LIST:
            continue
        try:
            lines = pattern.read_list(tree.path(file))
        except UserError:
            continue
        ids = [meant for line in lines if (meant := _meant(line, images, by_name)) is not None]
        if lines and len(ids) >= len(lines) / 2:
            exactly = word is None or word[1].lower() == stem.lower()
            found[name].append((not exactly, -len(ids), file, list(dict.fromkeys(ids)), ids == lines))
    for name, choices in found.items():
        _, _, file, ids, as_is = min(choices)
        yield name, (file if as_is else "", ids)


def _meant(
    line: str, images: Mapping[str, str], by_name: Mapping[str, list[tuple[str, tuple[str, ...]]]]
) -> str | None:
    """Return the id of the image that a line of a list means: an id, or a path of the image, first in the line."""
    for word in (line, line.split()[0]):
        if word in images:
            return word
        path = PurePosixPath(word.replace("\\", "/").lstrip("./"))
        near = by_name.get(path.stem, []) or by_name.get(path.name, [])
        parts = (path.with_suffix("") if path.stem in by_name else path).parts
        fitting = [i for i, theirs in near if theirs[-len(parts) :] == parts or parts[-len(theirs) :] == theirs]
        if len(fitting) == 1:
            return fitting[0]
    return None


def _proposed(ids: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """Propose which images are kept for evaluation: whole groups where names show which belong together."""
    if len(ids) == 1:
        return {"train": list(ids)}, "there is one image alone, so that none is left for evaluation"
    wanted = max(1, round(SHARE * len(ids)))
    for rule, group_of in (("all numbers", _without_numbers), ("the last number", _without_last_number)):
        groups = defaultdict(list)
        for i in ids:
            groups[group_of(i)].append(i)
        if 2 < len(groups) <= len(ids) / 2 or (2 < len(groups) < len(ids) and _is_copied(ids)):
            kept: list[str] = []
            for _, members in sorted(groups.items(), key=lambda g: zlib.crc32(g[0].encode())):
                if len(kept) + len(members) <= 1.25 * wanted:
                    kept += members
            if len(kept) >= wanted / 2:
                how = (
                    f"there are no splits; proposed: {len(kept)} of {len(ids)} images for val, in whole groups of "
                    f"names that are equal without {rule} ({len(groups)} groups)"
                )
                return _divided(ids, set(kept)), how
    if len({_without_last_number(i) for i in ids}) < len(ids):
        in_order = sorted(ids, key=_by_number)
        how = f"there are no splits; proposed for val: the last {wanted} of {len(ids)} images in the order of numbers"
        return _divided(ids, set(in_order[-wanted:])), how
    drawn = sorted(ids, key=lambda i: zlib.crc32(i.encode()))
    return _divided(
        ids, set(drawn[:wanted])
    ), f"there are no splits; proposed: {wanted} of {len(ids)} images, drawn, for val"


def _divided(ids: Sequence[str], kept: set[str]) -> dict[str, list[str]]:
    return {"train": [i for i in ids if i not in kept], "val": [i for i in ids if i in kept]}


def _original(name: str) -> str:
    """Return a name without what a tool that augments images appends to it."""
    return re.sub(r"(_(jpe?g|png))?\.rf\.[0-9a-zA-Z]{20,}$", "", name)


def _is_copied(ids: Sequence[str]) -> bool:
    return any(_original(i) != i for i in ids)


def _without_numbers(name: str) -> str:
    return re.sub(r"([_.\- ]*[a-zA-Z]?\d+)+$", "", _original(name))


def _without_last_number(name: str) -> str:
    return re.sub(r"[_.\- ]*\d+$", "", _original(name))


def _by_number(name: str) -> list[tuple[bool, int, str]]:
    """Order names as people do: 9 before 10."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]
