"""One file of annotations for many photos: COCO's JSON, CVAT's XML and Label Studio's JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

import msgspec

from manyseg.data.class_tables import class_tables, is_void, stated_color
from manyseg.data.encodings.label_studio import LABELS, UPLOADED, image_name, results_of
from manyseg.data.encodings.schema import load_json
from manyseg.data.guess.draft import Draft, FoundClass, Refused, joined_by_name
from manyseg.data.guess.drawn import overlap_key
from manyseg.data.guess.splits import Arrangement, arranged, split_name
from manyseg.data.guess.tree import Place, Tree, pairings, with_split
from manyseg.errors import UserError

__all__ = ["record_drafts"]

FEW = 20
"""A folder with more files of one ending holds one for each image, not one for all."""


CVAT, STUDIO = 'CVAT\'s XML ("CVAT for images 1.1")', "Label Studio's JSON"

NO_RESULT = (
    "no task has a finished annotation with a label; submit the annotations (predictions do not count), and export"
)
"""Why an export of tasks cannot be read."""


@dataclass
class _Records:
    """What an annotation file says: the names of its images (and of their masks), and its classes by raw value."""

    images: list[str]
    classes: dict[int | str, FoundClass]
    used: Counter[int | str] = field(default_factory=Counter)
    masks: list[str] = field(default_factory=list)
    outlines: int = 0


class _CocoImage(msgspec.Struct):
    file_name: str


class _CocoSegment(msgspec.Struct):
    category_id: int


class _CocoObject(msgspec.Struct):
    category_id: int | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    file_name: str | None = None
    segments_info: list[_CocoSegment] | None = None


class _CocoCategory(msgspec.Struct):
    id: int
    name: str
    isthing: bool | None = None
    color: list[int] | None = None


class _Coco(msgspec.Struct):
    images: list[_CocoImage]
    annotations: list[_CocoObject]
    categories: list[_CocoCategory]


def record_drafts(tree: Tree) -> Iterator[Draft | Refused]:
    """Yield a draft for every annotation file, or the files of several splits, whose images are in the folder."""
    groups: dict[tuple[str, str], dict[str, tuple[str, _Records]]] = defaultdict(dict)
    for file in _shared_files(tree):
        for encoding, records in _read(tree, file):
            if isinstance(records, Refused):
                yield records
                continue
            text, split = with_split(file)
            groups[encoding, text if split else file][split] = (file, records)
    for (encoding, text), files in groups.items():
        alone = next(iter(files.values()))[0] if len(files) == 1 else text
        yield from _drafts(tree, encoding, alone, files)


def _shared_files(tree: Tree) -> list[str]:
    files = tree.ending_in(".json", ".xml")
    count = Counter((PurePosixPath(f).parent, PurePosixPath(f).suffix) for f in files)
    return [f for f in files if count[PurePosixPath(f).parent, PurePosixPath(f).suffix] <= FEW]


def _read(tree: Tree, file: str) -> Iterator[tuple[str, _Records | Refused]]:
    """Yield the encodings that can read a file, with what it holds, or why that cannot be read."""
    if file.lower().endswith(".xml"):
        records = _cvat(tree, file)
        if records is not None:
            yield "cvat_images", records
        return
    if tree.path(file).stat().st_size < 2:
        return
    try:
        yield from _coco(load_json(tree.path(file), _Coco))
        return
    except (UserError, msgspec.ValidationError):
        pass
    try:
        tasks = load_json(tree.path(file), list[dict[str, Any]])
    except (UserError, msgspec.ValidationError):
        return
    names = [image_name(task) for task in tasks]
    if tasks and all(names):
        records = _label_studio(tasks, [n for n in names if n])
        yield "label_studio", records if records.used else Refused(STUDIO, f"{file}: {NO_RESULT}")


def _coco(data: _Coco) -> Iterator[tuple[str, _Records]]:
    classes: dict[int | str, FoundClass] = {
        c.id: FoundClass(c.name, (c.id,), stated_color(c.color), c.isthing) for c in data.categories
    }
    images = [i.file_name for i in data.images]
    if any(a.segments_info is not None for a in data.annotations):
        used = Counter[int | str](s.category_id for a in data.annotations for s in a.segments_info or ())
        yield "coco_panoptic", _Records(images, classes, used, [a.file_name or "" for a in data.annotations])
        return
    used = Counter(a.category_id for a in data.annotations if a.category_id is not None)
    outlines = sum(bytes(a.segmentation) not in (b"null", b"[]", b"[[]]") for a in data.annotations)
    records = _Records(images, classes, used, [], outlines)
    if outlines > len(data.annotations) / 2:
        yield "coco_instances", records
    if data.annotations:
        yield "coco_boxes", records


def _cvat(tree: Tree, file: str) -> _Records | Refused | None:
    try:
        root = ElementTree.parse(tree.path(file)).getroot()
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as e:
        begins = tree.path(file).read_bytes()[:4096]
        if b"<annotations" in begins and (b"<meta>" in begins or b"<image" in begins):
            return Refused(CVAT, f"{file}: unreadable or truncated XML ({e}); fetch or export the file again")
        return None
    images = root.findall("image")
    if root.tag != "annotations" or not images:
        return None
    used = Counter[int | str](item.get("label", "") for image in images for item in image if item.get("label"))
    classes: dict[int | str, FoundClass] = {}
    for label in root.iter("label"):
        name = label.findtext("name") or ""
        classes[name] = FoundClass(name, (), stated_color(label.findtext("color")))
    return _Records([image.get("name", "") for image in images], classes, used)


def _label_studio(tasks: Sequence[Mapping[str, Any]], names: list[str]) -> _Records:
    used = Counter[int | str]()
    for task in tasks:
        for result in results_of(task):
            for key in LABELS:
                used.update(v for v in result["value"].get(key) or () if isinstance(v, str))
    return _Records(names, {}, used)


def _drafts(tree: Tree, encoding: str, text: str, files: Mapping[str, tuple[str, _Records]]) -> Iterator[Draft]:
    images = {split: _found(tree.images, file, records.images) for split, (file, records) in files.items()}
    listed = sum(len(records.images) for _, records in files.values())
    present = sum(map(len, images.values()))
    if not present:
        return
    unsure = []
    if present < listed:
        unsure.append(f"{listed - present} of the {listed} images that {text} names are not in the folder")
    classes, ignore, how = _classes(tree, encoding, [records for _, records in files.values()])
    if not classes:
        return
    place = _with_masks(tree, text, files, images) if encoding == "coco_panoptic" else _placed(tree, text, images)
    if place is None:
        return
    saw = [f"{present} images in {text}", *how[0]]
    unsure += how[1]
    rank, title = {
        "coco_panoptic": (4, "COCO's panoptic JSON"),
        "coco_instances": (6, "COCO's JSON of objects"),
        "coco_boxes": (45, "COCO's JSON, boxes alone"),
        "cvat_images": (5, CVAT),
        "label_studio": (5, STUDIO),
    }[encoding]
    if encoding not in ("coco_panoptic", "coco_boxes"):
        unsure.append("pixels under no object have no label; `background` names a class for them, if they are one")
    yield Draft(title, rank, encoding, place, classes, ignore, overlap_key(encoding), saw, unsure)


def _found(files: Sequence[str], annotations: str, names: Iterable[str]) -> dict[str, str]:
    """Find the files that names mean: file by name."""
    by_end: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_end[PurePosixPath(file).name].append(file)
    out = {}
    for name in names:
        parts = tuple(p for p in name.replace("\\", "/").split("/") if p not in ("", "."))
        uploaded = UPLOADED.fullmatch(parts[-1]) if parts else None
        near = by_end.get(parts[-1], []) if parts else []
        near = near or (by_end.get(uploaded[1], []) if uploaded else [])
        if near:
            out[max(near, key=lambda f: (_shared(f, parts), _split_fits(f, annotations)))] = name
    return out


def _shared(file: str, parts: tuple[str, ...]) -> int:
    """Count the parts of two paths that agree from the end."""
    count = 0
    for a, b in zip(reversed(PurePosixPath(file).parts), reversed(parts), strict=False):
        if a != b:
            break
        count += 1
    return count


def _split_fits(file: str, annotations: str) -> tuple[bool, int]:
    ours, theirs = with_split(str(PurePosixPath(file).parent))[1], with_split(annotations)[1]
    shared = 0
    for a, b in zip(PurePosixPath(file).parts, PurePosixPath(annotations).parts, strict=False):
        if a != b:
            break
        shared += 1
    return ours == theirs, shared


def _pattern(paths: Iterable[str], ending: str) -> str:
    """Return the pattern of the files in the innermost folder that holds all `paths`."""
    parents = [PurePosixPath(p).parent.parts for p in paths]
    first, last = min(parents), max(parents)
    same = [a == b for a, b in zip(first, last, strict=False)]
    return "/".join([*first[: [*same, False].index(False)], "{id}" + ending])


def _placed(tree: Tree, text: str, images: Mapping[str, Mapping[str, str]]) -> Arrangement | None:
    """Find the pattern of images, and their splits."""
    every = [file for found in images.values() for file in found]
    endings = {PurePosixPath(file).suffix for file in every}
    ending = min(endings) if len(endings) == 1 else ""
    apart = {file: with_split(str(PurePosixPath(file).parent)) for file in every}
    words = sorted({word for _, word in apart.values()})
    if "" in words or len(words) == 1 or (len(images) > 1 and any(apart[f][1] != s for s in images for f in images[s])):
        words = [""]
    image = _pattern([f"{apart[f][0]}/x" for f in every] if words != [""] else every, ending)
    if (words == [""]) == ("{split}" in image):
        return None
    known: dict[Place, str] = {}
    usable: list[Place] = []
    wanted = set(every)
    head, tail = image.split("{id}")
    for word in words:
        start = head.replace("{split}", word)
        for file in tree.images:
            if file.startswith(start) and file.endswith(tail):
                place = (word, file[len(start) : len(file) - len(tail)])
                known[place] = file
                if file in wanted:
                    usable.append(place)
    patterns = {"image": image, "annotations": text}
    if len(images) > 1 and "{split}" not in image:
        # Images of all splits in one folder, and a file of annotations for each.
        lists = {split: sorted(i for _, i in usable if known["", i] in found) for split, found in images.items()}
        return _own_lists(patterns, lists)
    found = arranged(tree, patterns, known, usable)
    bare = ending == "" and not found.lists
    return replace(found, unsure=(*found.unsure, "images have several endings")) if bare else found


def _own_lists(patterns: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> Arrangement:
    """Arrange splits that are files of annotations, which `{split}` in their pattern calls by the splits' own names."""
    unsure = [f"the split for evaluation is called '{s}'; write eval_split = \"{s}\" in recipes"
              for s in lists if split_name(s) == "val" and s != "val"]  # fmt: skip
    counts = ", ".join(f"{split} {len(ids)}" for split, ids in lists.items())
    return Arrangement(patterns, {}, lists, (f"splits are files of annotations: {counts}",), tuple(unsure))


def _with_masks(
    tree: Tree,
    text: str,
    files: Mapping[str, tuple[str, _Records]],
    images: Mapping[str, Mapping[str, str]],
) -> Arrangement | None:
    masks = {split: _found(tree.ending_in(".png"), file, records.masks) for split, (file, records) in files.items()}
    photos = [file for found in images.values() for file in found]
    pairs = pairings(photos, [file for found in masks.values() for file in found])
    if not pairs:
        return None
    pair = pairs[0]
    patterns = {"image": pair.image, "mask": pair.other, "annotations": text}
    return arranged(tree, patterns, pair.images, pair.both)


def _classes(
    tree: Tree, encoding: str, records: Sequence[_Records]
) -> tuple[tuple[FoundClass, ...], list[int | str], tuple[list[str], list[str]]]:
    """Return classes, values without a label, and what was seen and is unsure."""
    used = sum((r.used for r in records), Counter[int | str]())
    known: dict[int | str, FoundClass] = {}
    for r in records:
        for value, found in r.classes.items():
            if known.setdefault(value, found).name != found.name:
                named = {c.name: c._replace(values=()) for one in records for c in one.classes.values()}
                names = {c.name for one in records for v, c in one.classes.items() if one.used[v]}
                note = "the files number categories differently, so that classes are looked up by name in each"
                return joined_by_name(c for n, c in named.items() if n in names), [], ([], [note])
    colors = {row.name: row.color for table in class_tables(tree.root, tree.files) for row in table.rows}
    for value in used:
        known.setdefault(value, FoundClass(str(value), () if isinstance(value, str) else (value,)))
    classes = [c._replace(color=c.color or colors.get(c.name)) for v, c in known.items() if used[v]]
    unused = [c.name for v, c in known.items() if not used[v]]
    saw = [f"{len(unused)} categories without any object are left out: {', '.join(unused[:5])}"] if unused else []
    ignore = [(c.values or (c.name,))[0] for c in classes if is_void(c.name)]
    return joined_by_name(c for c in classes if not is_void(c.name)), ignore, (saw, [])
