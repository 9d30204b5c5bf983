"""What lies in a dataset's folders and is read by no split: images, masks, and entries of annotation files."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from manyseg.data import locate, pattern
from manyseg.data.card import is_list
from manyseg.data.finding import Finding
from manyseg.data.folder import Folder

__all__ = ["strays", "unread", "unused"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"})
"""What files of images end in."""


def strays(folder: Folder) -> Iterator[Finding]:
    """Find masks and annotation files without an image, where the images are all those in a folder."""
    card, split = folder.card, folder.card.splits[folder.split]
    if is_list(split) or card.whole(folder.split) != folder.split:
        return
    names, known = pattern.fields(card.image), {_composed(i) for i in folder.ids}
    for key, text in (("mask", card.mask), ("annotation file", card.annotations if card.reader.per_image else None)):
        for image_id in locate.find(folder.root, text, {"split": split}, names) if text is not None else ():
            if _composed(image_id) not in known:
                path = pattern.fill(text or "", {"split": split, **pattern.values(names, image_id)})
                fix = f"add the image, or remove the {key}; images are looked for as {card.image}"
                yield Finding("warning", f"{key} without an image", str(folder.root / path), fix)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def unread(folders: Sequence[Folder]) -> Iterator[Finding]:
    """Find images beside those that are read: their suffix is not the pattern's, or they are in none of `folders`.

    `folders` are splits of one card.
    """
    if not folders or ".parquet/" in folders[0].card.image:
        return
    card, root = folders[0].card, folders[0].root
    read = {os.path.normpath(folder.own_paths(i)[0]) for folder in folders for i in range(len(folder))}
    start = os.path.normpath(root) + "/"
    wholes = {card.whole(f.split) for f in folders}
    splits = {whole if is_list(card.splits[whole]) else card.splits[whole] for whole in wholes}
    for split in sorted(splits) if "{split}" in card.image else sorted(splits)[:1]:
        known = {"split": split}
        text = pattern.fill(card.image, known)
        exact, similar = re.compile(pattern.regex(text)), re.compile(pattern.regex(text, r"\.[^./]+"))
        others = [pattern.fill(t, known) for t in (card.mask, card.instances) if t is not None]
        annotations = [re.compile(pattern.regex(t)) for t in others]
        for path in sorted(locate.walk(root, locate.fixed_folder(text))):
            name = path.rpartition("/")[2]
            suffix = os.path.splitext(name)[1]
            if suffix.lower() not in SUFFIXES or name.startswith(".") or os.path.normpath(start + path) in read:
                continue
            if any(a.fullmatch(path) for a in annotations) or not similar.fullmatch(path):
                continue
            if exact.fullmatch(path):
                yield Finding("note", "image in no split", str(root / path), "nothing to do if that is meant")
            else:
                fix = f"name all suffixes in the card's pattern, as .{{jpg,{suffix[1:].lower()}}}"
                what = "an image is not read, as its suffix is not that of the card's pattern"
                yield Finding("warning", what, str(root / path), fix)


def unused(folders: Sequence[Folder]) -> Iterator[Finding]:
    """Find entries of annotation files that belong to no image of any of `folders`, which are splits of one card."""
    by_file: dict[Path, list[set[str]]] = defaultdict(list)
    for folder in folders:
        if folder.card.annotations is not None and not folder.card.reader.per_image:
            annotations = folder.files(0).annotations
            assert annotations is not None
            by_file[annotations].append(set(folder.unused()))
    for file, names in by_file.items():
        left = sorted(set.intersection(*names))
        if left:
            what = f"the file has entries of images that are in no split ({len(left)})"
            yield Finding("warning", what, str(file), "add the images, or leave the entries if that is meant", left[0])
