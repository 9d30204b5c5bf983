"""What can be seen of an image and its annotation before they are trained on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from manyseg.cores import readers
from manyseg.data.bands import page_count
from manyseg.data.encodings import Found, ImageFiles, Regions, found_size
from manyseg.data.files import check_whole, exists, pages, stream
from manyseg.data.finding import Finding, of_error
from manyseg.data.folder import Folder, OpenedImage
from manyseg.data.photo import orientation
from manyseg.data.window import Window
from manyseg.errors import UserError
from manyseg.labels import IGNORE

__all__ = ["Inspection", "class_counts", "inspect", "inspect_all"]

ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}
"""What stands near the end of a file that is all there."""

DARK = 1 << 15
"""16-bit images whose brightest value is below are dark."""

PROBED = 256
"""Side of the part of an image of many bands whose brightness is looked at in the quick check."""

TAIL = 4096
"""Bytes at the end of a file in which that is looked for: cameras append notes of their own."""


class Inspection(msgspec.Struct, frozen=True):
    """What was found in an image and its annotation; `pixels` of each class (boxes, for boxes; 1, for tags)."""

    findings: list[Finding]
    pixels: dict[int, int]


def inspect_all(
    folder: Folder, indices: Sequence[int], *, decode: bool, done: Callable[[], None] = lambda: None
) -> list[Inspection]:
    """Inspect images in parallel, in order; `done` is called after each."""
    out = []
    with suppress(UserError):  # Which every image says then.
        folder.prepare()  # Before threads would do it at once.
    # Decoding releases the interpreter's lock, so threads are enough.
    with readers() as pool:
        for i, future in [(i, pool.submit(inspect, folder, i, decode=decode)) for i in indices]:
            with folder.named(i):
                out.append(future.result())
            done()
    return out


def inspect(folder: Folder, index: int, *, decode: bool) -> Inspection:
    """Read the annotation, and the image's header or (`decode`) all of it; one fault does not hide another."""
    findings: list[Finding] = []
    pixels: dict[int, int] = {}
    size = None
    try:
        files = folder.files(index)
    except UserError as e:
        return Inspection(list(of_error(e, folder.ids[index])), pixels)
    if files.banded:
        return _of_windows(folder, files, decode)
    try:
        found = folder.found(files)
        size = found_size(found)
        pixels = class_counts(found, objects=folder.annotation == "segments")
        if not pixels and isinstance(found, Regions):
            findings.append(_unlabelled(files))
        findings += found.findings
    except UserError as e:
        findings += of_error(e, folder.ids[index])
    try:
        with folder.opened(files, size) as image:
            findings += _decisions(image, files.image)
            if decode or not _is_whole(files.image, image.file.format or ""):
                # The smallest scale of a JPEG is enough to find it truncated.
                image.rgb((1, 1))
    except UserError as e:
        findings += of_error(e, folder.ids[index])
    return Inspection(findings, pixels)


def _unlabelled(files: ImageFiles) -> Finding:
    fix = "remove the image, or check `ignore`"
    return Finding("warning", "no pixel has a label", str(files.mask or files.id), fix)


def _of_windows(folder: Folder, files: ImageFiles, decode: bool) -> Inspection:
    """Inspect an image of many bands and its annotation from top to bottom, some rows at a time."""
    findings: list[Finding] = []
    counts: Counter[int] = Counter()
    try:
        for path in (files.image, files.mask, files.instances):
            if path is not None and exists(path):
                check_whole(path)
        with folder.windows(files) as opened:
            image, size = opened.image, opened.size
            image.check_end()
            count = page_count(image.file)
            middle = Window(size[0] // 2, size[1] // 2, PROBED, PROBED).within(size)
            most = max(image.highest(window) for window in (Window.strips(size) if decode else [middle]))
        if image.white is not None and most < DARK:
            what = f"16 bits that are dark: white is {image.white}, and the brightest value seen is ({most:g})"
            fix = f"write `range = [0, {most:g}]` in the card, with the value that is white in all images"
            findings.append(Finding("warning", what, str(files.image), fix))
        findings += _paged(count, files.image)
        parts = list(folder.parts(files))
    except UserError as e:
        return Inspection(list(of_error(e, files.id)), {})
    labels = False
    for part in parts:
        try:
            found = folder.found(part)
        except UserError as e:
            findings += of_error(e, files.id)
            continue
        labels = labels or isinstance(found, Regions)
        counts.update(class_counts(found, objects=folder.annotation == "segments"))
        findings += found.findings
    if labels and not counts:
        findings.append(_unlabelled(files))
    return Inspection(_summed(findings), dict(counts))


def _summed(findings: Iterable[Finding]) -> list[Finding]:
    """Join what was found in several parts of one image."""
    sums: Counter[Finding] = Counter()
    for finding in findings:
        sums[replace(finding, count=0)] += finding.count
    return [replace(finding, count=count) for finding, count in sums.items()]


def class_counts(found: Found, *, objects: bool) -> dict[int, int]:
    """Count what each class has; with `objects` only pixels of which it is known whose they are."""
    if isinstance(found, Regions):
        classes = np.where(found.known, found.classes, IGNORE) if objects else found.classes
        pixels = found.pixels
        rows = np.flatnonzero((pixels > 0) & (classes != IGNORE))
        counts = np.bincount(classes[rows], pixels[rows])
    else:
        counts = np.bincount(found.classes)
    return {int(d): int(counts[d]) for d in np.flatnonzero(counts)}


def _is_whole(path: Path, image_format: str) -> bool:
    """Say whether a file has the end that its format asks for; files without it, and other formats, may be whole."""
    end = ENDS.get(image_format)
    if end is None:
        return False
    with stream(path) as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - TAIL))
        return end in file.read()


def _paged(count: int, path: Path) -> Iterator[Finding]:
    if count > 1:
        fix = "nothing to do if the first is meant; else save the page that is meant as an image of its own"
        yield Finding("warning", f"the image has {count} pages, of which the first is read", str(path), fix)


def _decisions(image: OpenedImage, path: Path) -> Iterator[Finding]:
    """Say which decisions of ours apply to an image, that its author may not expect."""
    if (number := orientation(image.file)) != 1:
        if image.turned:
            what = "the image is turned as its EXIF orientation says: the card, or its annotation's size, has it so"
        else:
            what = "the image's EXIF orientation is not applied: the card, or its annotation's size, has it so"
        fix = "nothing to do if `manyseg data --sheet` shows that they fit; else write the other `exif` in the card"
        yield Finding("note", what, str(path), fix, f"orientation {number}")
    yield from _paged(pages(image.file), path)
    if image.file.mode.startswith("I") and image.value_range is None:
        highest = int(np.asarray(image.file).max())
        if highest < DARK:
            what = f"grey image of 16 bits that is dark: white is 65535, and its brightest value is ({highest})"
            fix = f"write `range = [0, {highest}]` in the card, with the value that is white in all images"
            yield Finding("warning", what, str(path), fix)
