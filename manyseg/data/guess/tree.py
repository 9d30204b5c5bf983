"""The files below a folder, and which of them belong together by their names."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from manyseg.data import pattern

__all__ = ["IMAGES", "Pairing", "Place", "Tree", "ending", "pairings", "spread", "with_split"]

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif"})
"""Endings of pictures, in small letters."""

SPLIT = re.compile(r"(?<![a-z])(train(?:ing)?|val(?:id(?:ation)?)?|dev|test(?:ing)?)(?![a-z])", re.IGNORECASE)
"""What names a split within the name of a folder."""

SAMPLE = 300
"""Files whose partners are looked for, to find out how names correspond."""

TOO_COMMON = 50
"""A part of a name that more files than this have in common says nothing of which belong together."""

RULES = 16
"""Ways in which names may correspond that are tried on all files, those with most examples first."""

ENOUGH = 0.2
"""A pairing with a smaller part of the pairs of the best one is a coincidence."""

T = TypeVar("T")

Place = tuple[str, str]
"""(split, id) of an image: the split is what stands in its folder's name, or ""."""


class Tree:
    """The files below `root`, without hidden ones; links to folders are followed, but not in circles."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = sorted(_walk(root))

    @cached_property
    def images(self) -> list[str]:
        """Paths of the pictures, masks among them."""
        return [f for f in self.files if ending(f).lower() in IMAGES]

    def ending_in(self, *endings: str) -> list[str]:
        """List the files with one of the endings, in small letters."""
        return [f for f in self.files if ending(f).lower() in endings]

    def path(self, file: str) -> Path:
        """Return where a file is."""
        return self.root / file

    def summary(self) -> str:
        """Say what is there: how many files of each ending, and the first folders."""
        kinds = Counter(ending(f) or "no ending" for f in self.files)
        folders = sorted({str(PurePosixPath(f).parent) for f in self.files} - {"."})
        found = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(6)) or "no file"
        more = f" and {len(folders) - 6} more" if len(folders) > 6 else ""
        return found + (f", in {', '.join(folders[:6])}{more}" if folders else "")


def _walk(root: Path) -> Iterator[str]:
    seen = set[str]()
    for place, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [f for f in folders if not f.startswith((".", "__"))]
        base = Path(place).relative_to(root).as_posix()
        yield from (f if base == "." else f"{base}/{f}" for f in files if not f.startswith("."))


def ending(file: str) -> str:
    """Return the ending of a file's name, with its dot."""
    return PurePosixPath(file).suffix


def spread(items: Sequence[T], count: int) -> list[T]:
    """Take `count` items, evenly spread."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)


def with_split(path: str) -> tuple[str, str]:
    """Put `{split}` for the first split that a path names, and return that name too, or ""."""
    found = SPLIT.search(path)
    if found is None:
        return path, ""
    word = found[1]
    return re.sub(rf"(?<![A-Za-z]){word}(?![A-Za-z])", "{split}", path), word


class _Key(NamedTuple):
    """A part of a file's name that may be its image's id, with what stands around it."""

    text: str
    before: str
    after: str


class _File(NamedTuple):
    folders: tuple[str, ...]
    split: str
    keys: tuple[_Key, ...]


@lru_cache(maxsize=1 << 18)
def _taken_apart(file: str) -> _File:
    path = PurePosixPath(file)
    folder, split = with_split(path.parent.as_posix())
    stem = path.name.removesuffix(path.suffix)
    pieces = re.split(r"([_.\- ])", stem)
    # A number tells images apart: it is a part of the id, not of what stands around it.
    lengths = takewhile(lambda n: n == len(pieces) or not pieces[n + 1].isdecimal(), range(len(pieces), 0, -2))
    keys = [_Key("".join(pieces[:n]), "", "".join(pieces[n:]) + path.suffix) for n in lengths]
    if len(pieces) > 2 and not pieces[0].isdecimal():
        keys.append(_Key("".join(pieces[2:]), "".join(pieces[:2]), path.suffix))
    return _File(tuple(p for p in folder.split("/") if p != "."), split, tuple(k for k in keys if k.text))


@dataclass(frozen=True)
class Pairing:
    """Two patterns, with the same names in braces, of files that belong together."""

    image: str
    other: str
    images: Mapping[Place, str]
    others: Mapping[Place, str]

    @cached_property
    def both(self) -> list[Place]:
        """The places of images that have their other file."""
        return sorted(self.images.keys() & self.others.keys())


def pairings(images: Sequence[str], others: Sequence[str]) -> list[Pairing]:
    """Find how the names of images and of other files correspond; the pairing of most files first."""
    apart = {file: _taken_apart(file) for file in {*images, *others}}
    holders: dict[str, list[tuple[str, _Key]]] = defaultdict(list)
    for file in others:
        for key in apart[file].keys:
            holders[key.text].append((file, key))
    rules = Counter[tuple[str, str]]()
    for file in spread(images, SAMPLE):
        for key in apart[file].keys:  # The longest first.
            near = [(o, k) for o, k in holders[key.text] if o != file and apart[o].split == apart[file].split]
            suggested = {_rule(apart[file], key, apart[o], k) for o, k in _nearest(apart, file, near)}
            if suggested:
                rules.update(suggested)
                break
    for rule in list(rules):
        for wider in _wider(*rule):
            rules[wider] += rules[rule]
    found = [pair for rule, _ in rules.most_common(RULES) if (pair := _paired(*rule, images, others)).both]
    found.sort(key=lambda p: (-len(p.both), len(p.images), len(p.image) + len(p.other)))
    kept: list[Pairing] = []
    seen = set[tuple[str, str]]()
    for pair in found:
        files = {(pair.images[p], pair.others[p]) for p in pair.both}
        if len(files) >= ENOUGH * len(found[0].both) and not files <= seen:
            seen |= files
            kept.append(_narrowed(pair, images, others))
    return kept


def _nearest(apart: Mapping[str, _File], file: str, near: list[tuple[str, _Key]]) -> list[tuple[str, _Key]]:
    """Where a part of a name is in too many files, leave those that share most folders with `file`, from either end."""
    if len(near) <= TOO_COMMON:
        return near
    ours = apart[file].folders
    kept = []
    for turn in (1, -1):
        shared = [_shared(ours[::turn], apart[other].folders[::turn]) for other, _ in near]
        most = [one for one, count in zip(near, shared, strict=True) if count == max(shared) > 0]
        kept += most if len(most) <= TOO_COMMON else []
    return kept


def _shared(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Count the folders that two paths have in common before they differ."""
    same = [a == b for a, b in zip(ours, theirs, strict=False)]
    return [*same, False].index(False)


def _rule(image: _File, image_key: _Key, other: _File, other_key: _Key) -> tuple[str, str]:
    """Return the patterns that two files suggest: folders below what differs and below the split are part of the id."""
    ours, theirs = list(image.folders), list(other.folders)
    while ours and theirs and ours[-1] == theirs[-1] and "{split}" not in ours[-1]:
        ours.pop()
        theirs.pop()
    return (
        "/".join([*ours, f"{image_key.before}{{id}}{image_key.after}"]),
        "/".join([*theirs, f"{other_key.before}{{id}}{other_key.after}"]),
    )


def _wider(image: str, other: str) -> Iterator[tuple[str, str]]:
    """Yield what two patterns are examples of, if a folder that both have is one of many."""
    ours, theirs = image.split("/"), other.split("/")
    for i, (a, b) in enumerate(zip(ours[:-1], theirs[:-1], strict=False)):
        if a == b and "{" not in a and ours != theirs:
            pair = ["/".join([*p[:i], "{scene}", *p[i + 1 :]]).replace("{id}", "{frame}") for p in (ours, theirs)]
            yield pair[0], pair[1]
    name, after = PurePosixPath(image).name, PurePosixPath(other).name
    if after.startswith(name) and after != name:  # The image's whole name, ending and all, is the id.
        yield image.removesuffix(name) + "{id}", other.removesuffix(after) + after.replace(name, "{id}")


def _paired(image: str, other: str, images: Iterable[str], others: Iterable[str]) -> Pairing:
    return Pairing(image, other, _matches(image, images), _matches(other, others))


def _matches(text: str, files: Iterable[str]) -> dict[Place, str]:
    matching = re.compile(pattern.regex(text))
    names = pattern.fields(text)
    out: dict[Place, str] = {}
    for file in files:
        found = matching.fullmatch(file)
        split = found.groupdict().get("split", "") if found else ""
        if found and (not split or SPLIT.fullmatch(split)):
            out.setdefault((split, "/".join(found[n] for n in names)), file)
    return out


def _narrowed(pair: Pairing, images: Iterable[str], others: Iterable[str]) -> Pairing:
    """Write the folder that all ids begin with into the patterns."""
    if "{id}" not in pair.image:
        return pair
    parts = [i.split("/")[:-1] for _, i in pair.both]
    first = min(parts)
    shared = first[: _shared(first, max(parts))]
    if not shared:
        return pair
    inner = "/".join([*shared, "{id}"])
    return _paired(pair.image.replace("{id}", inner), pair.other.replace("{id}", inner), images, others)
