"""A file of objects beside every photo: the JSON, XML and text files of labelling tools."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from manyseg.data.class_tables import ClassTable, class_tables, is_void
from manyseg.data.encodings import Encoding, ImageFiles, Raw, RawValues, find_encoding
from manyseg.data.encodings.drawn import DrawnEncoding
from manyseg.data.guess.draft import Draft, FoundClass, Refused, joined_by_name
from manyseg.data.guess.masks import photos_of
from manyseg.data.guess.splits import arranged
from manyseg.data.guess.tree import Pairing, Place, Tree, pairings, spread
from manyseg.errors import UserError
from manyseg.progress import progress

__all__ = ["drawn_drafts", "overlap_key"]

TRIED = 20
"""Files that are read as each encoding, to see which one it is."""

READ = 5000
"""Files whose classes are gathered."""


class _Tool(NamedTuple):
    """An encoding, what its files are called, how likely it is (a rank), and what such a file has in it."""

    name: str
    title: str
    rank: int
    mark: str


TOOLS = {
    ".json": (
        _Tool("labelme", "Labelme's JSON files", 5, r'"shapes"\s*:'),
        _Tool("supervisely", "a project of Supervisely", 5, r'"classTitle"\s*:'),
        _Tool("polygon_json", "a JSON of polygons beside each photo", 20, r'"imgHeight"\s*:'),
    ),
    ".txt": (
        _Tool("yolo_segments", "YOLO's polygons", 5, r"\A\s*(\d\S*[ ,;\t]+){6,}"),
        _Tool("yolo_boxes", "YOLO's boxes", 35, r"\A\s*(\d\S*[ ,;\t]+){4}"),
    ),
    ".xml": (_Tool("voc_boxes", "an XML of boxes beside each photo", 40, r"<bndbox>"),),
}
"""Encodings by the ending of their files."""

PAINTED_IN_ORDER = ("supervisely", "polygon_json", "cvat_images")
"""Encodings of tools that show the objects of an image in the order in which they are listed, the last on top."""


def overlap_key(encoding: str) -> dict[str, tuple[Any, str]]:
    """Return the card's key that says which of several objects has a pixel, with a comment, where there is one."""
    if not find_encoding(encoding).drawn:
        return {}
    if encoding in PAINTED_IN_ORDER:
        return {"overlap": ("last", 'where objects lie over each other, the later one; or "smallest", "first", "none"')}
    return {"overlap": ("smallest", 'where objects lie over each other, the smallest; or "last", "first", "none"')}


class _Numbering(dict[Raw, int]):
    """A map that knows every value: each gets the next number when it is first asked for."""

    def __contains__(self, value: object) -> bool:
        return True

    def get(self, value: Raw, default: Any = None) -> int:
        return self.setdefault(value, len(self))


@dataclass
class _Reading:
    """What the files of an encoding hold: how many could be read, the values of classes, and objects of boxes only."""

    read: int = 0
    values: Counter[Raw] = field(default_factory=Counter)
    error: UserError | None = None


def drawn_drafts(tree: Tree) -> Iterator[Draft | Refused]:
    """Yield a draft for every kind of annotation files that photos have beside them, or why it cannot be read."""
    tables = class_tables(tree.root, tree.files)
    for suffix, tools in TOOLS.items():
        others = tree.ending_in(suffix)
        for pair in pairings(photos_of(tree), others) if others else []:
            refused: list[Refused] = []
            for tool in tools:
                draft = _draft(tree, pair, tool, tables)
                if isinstance(draft, Draft):
                    yield draft
                    break
                refused += [draft] if draft is not None else []
            else:
                yield from refused[:1]


def _draft(tree: Tree, pair: Pairing, tool: _Tool, tables: Sequence[ClassTable]) -> Draft | Refused | None:
    name, title, rank, mark = tool
    tried = spread(pair.both, TRIED)
    first = _read(tree, pair, name, tried)
    if first.read <= len(tried) / 2 or not first.values:
        marked = [place for place in tried if re.search(mark, _text(tree.path(pair.others[place])))]
        if len(marked) > len(tried) / 2:
            return Refused(title, str(first.error or "no file has an object; export them again with objects"))
        empty = name == "yolo_segments" and first.read == len(tried) and _has_names(tree)
        return (
            Refused(title, f"no file has an object, such as {pair.others[tried[0]]}; export them again with objects")
            if empty
            else None
        )
    if name == "yolo_segments" and not _has_polygons(tree, pair):
        return None
    chosen = spread(pair.both, READ)
    found = _read(tree, pair, name, chosen)
    by_number = find_encoding(name).values == "number"
    # Of this format no file means no object.
    usable = list(pair.images) if by_number else pair.both
    place = arranged(tree, {"image": pair.image, "annotations": pair.other}, pair.images, usable)
    saw = [f"{len(pair.both)} pairs {pair.image} and {pair.other}"]
    unsure = [f"classes are those of {len(chosen)} of {len(pair.both)} files"] if len(chosen) < len(pair.both) else []
    numbered, how, doubts = _numbered(tree, tables, found.values) if by_number else _named(tables, found.values)
    saw += how
    unsure += doubts
    ignore = [c.values[0] if c.values else c.name for c in numbered if is_void(c.name)]
    classes = joined_by_name(c for c in numbered if not is_void(c.name))
    if not classes:
        return None
    if find_encoding(name).kind == "segments":
        unsure.append("pixels under no object have no label; `background` names a class for them, if they are one")
    return Draft(title, rank, name, place, classes, ignore, overlap_key(name), saw, unsure)


def _has_names(tree: Tree) -> bool:
    return any(True for _ in _yaml_names(tree))


def _text(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.read(1 << 16)


def _files(tree: Tree, pair: Pairing, place: Place) -> ImageFiles:
    image = pair.images[place]
    return ImageFiles(place[1], image, tree.path(image), None, None, tree.path(pair.others[place]))


def _read(tree: Tree, pair: Pairing, name: str, places: Sequence[Place]) -> _Reading:
    """Read files as an encoding does, whatever their classes are."""
    numbering = _Numbering()
    encoding = find_encoding(name)(RawValues(numbering, False, np.zeros(1, bool), {}))
    out = _Reading()
    with progress(f"reading annotations ({name})", len(places)) as done:
        for place in places:
            done()
            try:
                values = _values(encoding, _files(tree, pair, place), numbering)
            except UserError as e:
                out.error = e
                continue
            out.read += 1
            out.values.update(values)
    return out


def _values(encoding: Encoding, files: ImageFiles, numbering: _Numbering) -> set[Raw]:
    if isinstance(encoding, DrawnEncoding):
        return {shape.value for shape in encoding.shapes(files)[1]}
    numbering.clear()
    encoding.read(files)
    return set(numbering)


def _has_polygons(tree: Tree, pair: Pairing) -> bool:
    """Say whether most lines of the format that holds both are polygons, not boxes."""
    polygons = boxes = 0
    for place in spread(pair.both, TRIED):
        for line in tree.path(pair.others[place]).read_text(encoding="utf-8", errors="replace").splitlines():
            polygons += len(line.split()) > 5
            boxes += len(line.split()) == 5
    return polygons > boxes


_Classes: TypeAlias = tuple[list[FoundClass], list[str], list[str]]
"""Classes, what was seen of them, and what is unsure."""


def _named(tables: Sequence[ClassTable], values: Mapping[Raw, int]) -> _Classes:
    """Return classes that files call by name, in the order of a table that has them all, with its colours."""
    for table in tables:
        rows = {row.name: row for row in table.rows}
        if set(values) <= rows.keys():
            return [FoundClass(name, (), row.color) for name, row in rows.items()], [f"classes of {table.file}"], []
    return [FoundClass(str(v)) for v in sorted(values, key=str)], [], []


def _numbered(tree: Tree, tables: Sequence[ClassTable], values: Mapping[Raw, int]) -> _Classes:
    """Name the numbers of `values` by the table that has most of them, and those that it lacks by themselves."""
    broken: list[str] = []
    named = {
        file: {v: FoundClass(name, (v,)) for v, name in names.items()} for file, names in _yaml_names(tree, broken)
    }
    for table in tables:
        named.setdefault(table.file, {v: FoundClass(row.name, (v,), row.color) for v, row in table.by_number().items()})
    file = max(named, key=lambda f: len(named[f].keys() & values.keys()), default=None)
    if file is None or not named[file].keys() & values.keys():
        doubt = "no table of classes was found, so that classes are called by their numbers; rename them"
        return [FoundClass(f"class {v}", (v,)) for v in sorted(values, key=int)], [], [*broken, doubt]
    lacking = sorted(values.keys() - named[file].keys(), key=int)
    numbers = ", ".join(map(str, lacking))
    doubts = [f"{file} has no name for the numbers {numbers}, which files have"] if lacking else []
    classes = [*named[file].values(), *(FoundClass(f"class {v}", (v,)) for v in lacking)]
    return classes, [f"classes of {file}"], [*broken, *doubts]


def _yaml_names(tree: Tree, broken: list[str] | None = None) -> Iterator[tuple[str, dict[Raw, str]]]:
    """Yield the class names of YAML files, by number; what is wrong with files is added to `broken`."""
    import yaml

    for file in tree.ending_in(".yaml", ".yml"):
        try:
            data = yaml.safe_load(tree.path(file).read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
            if broken is not None:
                broken.append(f"{file} cannot be read: {' '.join(str(e).split())}")
            continue
        names = data.get("names") if isinstance(data, dict) else None
        if isinstance(names, list):
            names = dict(enumerate(names))
        if isinstance(names, dict) and names and all(isinstance(k, int) for k in names):
            if not all(isinstance(name, str | int | float | None) for name in names.values()):
                if broken is not None:
                    broken.append(f"{file}: `names` holds lists or tables where names of classes were expected")
                continue
            yield file, {number: str(name) for number, name in names.items()}
