"""Masks: pictures whose pixels are classes, beside the photos that they belong to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from manyseg.cores import readers
from manyseg.data.class_tables import ClassTable, TableRow, class_tables
from manyseg.data.encodings import Raw
from manyseg.data.encodings.masks import MIXTURES
from manyseg.data.files import opened
from manyseg.data.guess.draft import Draft, FoundClass, Refused, joined_by_name
from manyseg.data.guess.photos import is_banded
from manyseg.data.guess.splits import Arrangement, arranged
from manyseg.data.guess.tree import Pairing, Tree, pairings, spread
from manyseg.data.raster import read_colors, read_index
from manyseg.errors import UserError
from manyseg.labels.colors import hex_color
from manyseg.progress import progress

__all__ = ["is_masks_of_photos", "mask_draft", "mask_drafts", "photos_of"]

JUDGED = 4
"""Pairs that are looked at, to tell photos from masks."""

SCANNED = 2000
"""Masks whose values are counted."""

FLAT = 0.6
"""In a mask at least so many pixels are equal to their right neighbour; in photos few are."""

RARE = 0.005
"""A smaller part of the pixels than this may be mixtures along the edges of other colours."""

MOST_COLORS = 1000
"""More colours than that are no classes."""

OBJECT_WORDS = re.compile(r"instanc|object", re.IGNORECASE)

MASK_WORDS = re.compile(r"mask|label|annot|seg|gt|ground|truth|class", re.IGNORECASE)


@dataclass
class _Scan:
    """What the masks hold: modes, how many pixels and masks have each value, and the colours of palettes."""

    modes: Counter[str] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    palette: dict[int, str] = field(default_factory=dict)
    one_palette: bool = True
    colors: bool = False


def mask_drafts(tree: Tree) -> Iterator[Draft | Refused]:
    """Yield a draft for every folder or kind of masks that photos have."""
    tables = class_tables(tree.root, tree.files)
    found = _mask_pairs(tree)
    for pair in found:
        draft = mask_draft(tree, pair, tables)
        if draft is None and (reason := _unreadable(tree.path(pair.others[pair.both[0]]))) is not None:
            yield Refused("photos with masks", reason)
        others = [p.other for p in found if p.image == pair.image and p is not pair]
        numbers = [other for other in others if OBJECT_WORDS.search(other)]
        if draft is not None and others and draft.encoding == "index" and OBJECT_WORDS.search(pair.other):
            yield replace(draft, rank=draft.rank + 10, title=f"{draft.title}, which may number objects")
        elif draft is not None and numbers and draft.encoding == "index":
            what = f'{numbers[0]} may number objects; then add `instances = "{numbers[0]}"`'
            hint = f"{what}, and `thing = true` to the classes whose objects it tells apart"
            yield replace(draft, unsure=(*draft.unsure, hint))
        elif draft is not None:
            yield draft


@lru_cache(maxsize=1)
def _mask_pairs(tree: Tree) -> list[Pairing]:
    judged = [(pair, _likeness(tree, pair)) for pair in pairings(tree.images, tree.images)]
    most = max((likeness for _, likeness in judged), default=0)
    return [pair for pair, likeness in judged if likeness == most > 0]


def photos_of(tree: Tree) -> list[str]:
    """Return the pictures that are not the masks of others."""
    pairs = _mask_pairs(tree)
    photos = {pair.images[place] for pair in pairs for place in pair.both}
    masks = {pair.others[place] for pair in pairs for place in pair.both} - photos
    return [file for file in tree.images if file not in masks]


def is_masks_of_photos(tree: Tree, pair: Pairing) -> bool:
    """Say whether most of a few pairs look like a photo and its mask."""
    return _likeness(tree, pair) > 0


def _likeness(tree: Tree, pair: Pairing) -> int:
    """Say how much pairs look like photos and masks: 2 by their pixels, 1 by their names alone, 0 not at all."""
    scores = []
    for place in spread(pair.both, JUDGED):
        try:
            mask = _flatness(tree.path(pair.others[place]))
            path = tree.path(pair.images[place])
            photo = 0.0 if is_banded(path) else _flatness(path)
        except UserError:
            continue
        hinted = MASK_WORDS.search(pair.other) is not None and not MASK_WORDS.search(pair.image)
        scores.append(0 if mask <= FLAT else 2 if photo < FLAT else int(hinted))
    return sorted(scores)[(len(scores) - 1) // 2] if scores else 0


def _flatness(path: Path) -> float:
    """Return the part of pixels that are equal to their right neighbour; a JPEG is a photo whatever it shows."""
    with opened(path) as image:
        if image.format in ("JPEG", "MPO"):
            return 0.0
        pixels = np.asarray(image.crop((0, 0, min(image.width, 1024), min(image.height, 1024))))
    same = pixels[:, 1:] == pixels[:, :-1]
    return float(np.mean(same.all(-1) if same.ndim == 3 else same)) if same.size else 1.0


def mask_draft(tree: Tree, pair: Pairing, tables: Sequence[ClassTable]) -> Draft | None:
    """Return the draft of masks by the values that they hold, or None if these are no classes."""
    files = spread([pair.others[p] for p in pair.both], SCANNED)
    scan = _scanned([tree.path(f) for f in files])
    numbered = None if scan.colors or not OBJECT_WORDS.search(pair.other) else _class_numbers(scan.pixels)
    if numbered is not None:
        scan.pixels = numbered.pixels
    if not scan.pixels or len(scan.pixels) > MOST_COLORS:
        return None
    place = arranged(tree, {"image": pair.image, "mask": pair.other}, pair.images, pair.both)
    unsure = []
    if len(files) < len(pair.both):
        unsure.append(f"values are those of {len(files)} of {len(pair.both)} masks; the others may have more")
    modes = ", ".join(f"{count} {mode}" for mode, count in scan.modes.most_common())
    saw = [f"{len(pair.both)} pairs {pair.image} and {pair.other}; modes of the masks: {modes}"]
    if scan.colors:
        return _colored(scan, place, tables, saw, unsure)
    draft = _indexed(scan, place, tables, saw, unsure)
    return draft if numbered is None else _of_objects(draft, numbered)


class _Numbered(NamedTuple):
    """Pixels of each class, where values are a class or a class x 1000 + the number of an object; countable classes."""

    pixels: Counter[int]
    things: frozenset[int]


def _class_numbers(values: Counter[int]) -> _Numbered | None:
    things = frozenset(v // 1000 for v in values if v >= 1000)
    if not things:
        return None
    pixels = Counter[int]()
    for value, count in values.items():
        pixels[value if value < 1000 else value // 1000] += count
    return _Numbered(pixels, things)


def _of_objects(draft: Draft, found: _Numbered) -> Draft:
    classes = [c._replace(thing=not found.things.isdisjoint(c.values)) for c in draft.classes]
    title = draft.title.replace("masks", "masks of class x 1000 + object")
    return replace(draft, title=title, encoding="instance_ids", classes=classes)


def _scanned(paths: Sequence[Path]) -> _Scan:
    scan = _Scan()
    with readers() as pool, progress("reading masks", len(paths)) as done:
        for mode, palette, values in pool.map(_values, paths):
            done()
            scan.modes[mode] += 1
            scan.pixels.update(values)
            for value in values:
                if value < len(palette) and scan.palette.setdefault(value, palette[value]) != palette[value]:
                    scan.one_palette = False
            if len(scan.pixels) > 100 * MOST_COLORS:
                break
    # Palettes that differ from file to file are mere compression: their colours are what counts.
    scan.colors = any(mode in ("RGB", "RGBA") for mode in scan.modes) or not scan.one_palette
    if scan.colors and "P" in scan.modes:
        scan.pixels.clear()
        for path in paths:
            scan.pixels.update(_color_values(path))
    return scan


def _unreadable(path: Path) -> str | None:
    """Say why no encoding of masks can read a file, or None if one can."""
    with suppress(UserError):
        read_colors(path)
        return None
    try:
        read_index(path, wide=True)
    except UserError as e:
        return str(e)
    return None


def _values(path: Path) -> tuple[str, list[str], dict[int, int]]:
    try:
        with opened(path) as image:
            mode = image.mode
            palette = image.getpalette() or [] if mode == "P" else []
        colors = [hex_color(palette[i : i + 3]) for i in range(0, len(palette) - 2, 3)]
        if mode in ("RGB", "RGBA"):
            return mode, [], _color_values(path)
        plane = read_index(path, wide=True)
        if plane.dtype.itemsize <= 2:  # Much faster than sorting.
            counts = np.bincount(plane.ravel())
            values = np.flatnonzero(counts)
            return mode, colors, {int(v): int(counts[v]) for v in values}
        values, counts = np.unique(plane, return_counts=True)
        return mode, colors, dict(zip(values.tolist(), counts.tolist(), strict=True))
    except UserError:
        return "unreadable", [], {}


def _color_values(path: Path) -> dict[int, int]:
    try:
        values, counts = np.unique(read_colors(path), return_counts=True)
    except UserError:
        return {}
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _best_table(rows: Mapping[int, Mapping[Raw, TableRow]], values: set[Raw]) -> int | None:
    """Return the table that names most of the values, if it names half of them."""
    named = {i: len(values & named_by.keys()) for i, named_by in rows.items()}
    best = max(named, key=lambda i: (named[i], -i), default=None)
    return best if best is not None and named[best] >= max(1, len(values) / 2) else None


def _colored(scan: _Scan, place: Arrangement, tables: Sequence[ClassTable], saw: list[str], unsure: list[str]) -> Draft:
    found = {f"#{value:06x}": count for value, count in scan.pixels.most_common()}
    by_color = {i: t.by_color() for i, t in enumerate(tables)}
    best = _best_table(by_color, set(found))
    rows = {} if best is None else by_color[best]
    classes = [FoundClass(row.name, (color,)) for color, row in rows.items() if row.used]
    ignore: list[Raw] = [color for color, row in rows.items() if not row.used]
    unnamed = [color for color in found if color not in rows]
    if best is not None:
        saw.append(f"classes of {tables[best].file}")
        if unnamed:
            unsure.append(f"{len(unnamed)} colours are not in {tables[best].file}: {', '.join(unnamed[:5])}")
    else:
        unsure.append("no table of classes was found, so that classes are called by their colours; rename them")
    rare = [color for color in unnamed if found[color] < RARE * scan.pixels.total()]
    if len(rare) >= MIXTURES:
        unsure.append(
            f"{len(rare)} colours have less than {RARE:.1%} of the pixels each, such as {rare[-1]}: if they lie along "
            "edges, the masks were smoothed; export them again without smoothing"
        )
    for color in unnamed:
        classes.append(FoundClass("background" if color == "#000000" else f"color {color[1:]}", (color,)))
    unsure += _of_background(classes)
    title = f"colour masks with {tables[best].file}" if best is not None else "colour masks"
    rank = _rank(best is not None, len(unnamed))
    return Draft(title, rank, "color", place, joined_by_name(classes), ignore, {}, saw, unsure)


def _indexed(scan: _Scan, place: Arrangement, tables: Sequence[ClassTable], saw: list[str], unsure: list[str]) -> Draft:
    values = sorted(scan.pixels)
    colored = {v: c for v, c in scan.palette.items() if len(set(scan.palette.values())) > 1 and not _is_grey(c, v)}
    by_number = {i: t.by_number() for i, t in enumerate(tables)}
    by_color = {i: t.by_color() for i, t in enumerate(tables)}
    for i, rows in by_color.items():  # A palette's colours may be those of the table, whatever the order of both.
        if values and sum(colored.get(v, "") in rows for v in values) > len(values) / 2:
            by_number[i] = {v: rows[c] for v, c in colored.items() if c in rows}
    best = _best_table(by_number, {v for v in values if v != 255})
    known = {} if best is None else by_number[best]
    if best is not None:
        saw.append(f"classes of {tables[best].file}")
    else:
        unsure.append("no table of classes was found, so that classes are called by their values; rename them")
    classes, ignore = [], list[Raw]()
    for value in sorted({*values, *(v for v in known if isinstance(v, int))}):
        row = known.get(value)
        if row is not None and row.used:
            classes.append(FoundClass(row.name, (value,), row.color or colored.get(value)))
        elif row is not None or (value in (255, 65535) and values != [0, 255]):
            ignore.append(value)
        elif values == [0, 255]:
            classes.append(FoundClass("foreground" if value else "background", (value,), colored.get(value)))
        else:
            name = "background" if value == 0 else f"class {value}"
            classes.append(FoundClass(name, (value,), colored.get(value)))
    unsure += _of_background(classes)
    unnamed = [v for v in values if v not in known and v not in ignore] if best is not None else []
    if unnamed:
        unsure.append(f"{len(unnamed)} values are not in {tables[best or 0].file}: {', '.join(map(str, unnamed[:5]))}")
    kind = "palette" if colored else "grey"
    title = f"{kind} masks with {tables[best].file}" if best is not None else f"{kind} masks"
    rank = _rank(best is not None, len(unnamed))
    return Draft(title, rank, "index", place, joined_by_name(classes), ignore, {}, saw, unsure)


def _of_background(classes: Sequence[FoundClass]) -> list[str]:
    named = [c.name for c in classes if c.name.strip("_ ").lower() == "background"]
    return [f'`{n}` may be a class or mean "no label"; in the latter case move its value into `ignore`' for n in named]


def _rank(named: bool, unnamed: int) -> int:
    return (15 if unnamed else 10) if named else 30


def _is_grey(color: str, value: int) -> bool:
    return color == hex_color([value] * 3)
