"""The check before training: every image that will be read, once; what was sound and has not changed is not read again.

Annotations are read as training reads them; of images the header and the end of the file. What only `manyseg data`
finds: damage in the middle of an image, images that are in two splits, masks without an image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import msgspec

from manyseg import atomic
from manyseg.data.card import is_list
from manyseg.data.completeness import unread
from manyseg.data.files import file_state
from manyseg.data.finding import Finding, merged, of_error
from manyseg.data.folder import Folder
from manyseg.data.histogram import Histogram, absences, single
from manyseg.data.inspection import Inspection, inspect_all
from manyseg.data.stores import url_of
from manyseg.data.table_check import compared_tables
from manyseg.errors import UserError
from manyseg.progress import progress

__all__ = ["cache_folder", "inspections", "quick_check"]


class _Known(msgspec.Struct):
    """The content of a file of the cache: what was found in files, by a digest of their paths, sizes and times."""

    card: str
    images: dict[str, Inspection]


def cache_folder() -> Path:
    """Return where results are kept: below $MANYSEG_CACHE, else ~/.cache/manyseg."""
    return Path(os.environ.get("MANYSEG_CACHE") or Path.home() / ".cache" / "manyseg") / "checked"


def quick_check(train: Sequence[Folder], others: Sequence[Folder] = ()) -> list[Finding]:
    """Find what is wrong with the images of all folders; those of `train` are trained on, `others` only evaluated."""
    findings: list[Finding] = []
    histograms: dict[tuple[str, str], Histogram] = {}
    for folder in _different([*train, *others]):
        try:
            folder.prepare()
        except UserError as e:
            findings += of_error(e, f"'{folder.space.name}', split '{folder.split}'")
            continue
        findings += [*folder.findings(), *compared_tables(folder)]
        found = inspections(folder)
        findings += [finding for i in found for finding in i.findings]
        whole = folder.card.whole(folder.split) == folder.split
        if folder in train and whole and not is_list(folder.card.splits[folder.split]):
            findings += [f for f in unread([folder]) if f.severity != "note"]
        histograms[folder.space.name, folder.split] = Histogram.of(folder.space, found)
    for folder in train:
        name = folder.space.name
        mine = {f"'{name}', split '{split}'": h for (other, split), h in histograms.items() if other == name}
        place = f"'{name}', split '{folder.split}'"
        findings += absences(folder.space, mine, place)
        if place in mine and folder.annotation in ("dense", "segments"):
            findings += single(folder.space, mine[place], place)
    return merged(findings)


def _different(folders: Iterable[Folder]) -> list[Folder]:
    """Leave out folders whose files another one has."""
    return list({(f.space.name, f.root, f.split, f.ids, f.annotation): f for f in folders}.values())


def inspections(folder: Folder) -> list[Inspection]:
    """Inspect every image, but those that are known and as they were."""
    file = _cache_file(folder)
    card, known = _card(folder), dict[str, Inspection]()
    with suppress(OSError, msgspec.DecodeError):
        kept = msgspec.json.decode(file.read_bytes(), type=_Known)
        known = kept.images if kept.card == card else {}
    digests = [_digest(folder, i) for i in range(len(folder))]
    new = [i for i, digest in enumerate(digests) if digest not in known]
    if new:
        with progress(f"checking '{folder.space.name}', split '{folder.split}'", len(new)) as done:
            fresh = inspect_all(folder, new, decode=False, done=done)
        known |= {digests[i]: inspection for i, inspection in zip(new, fresh, strict=True)}
        current = {digest: known[digest] for digest in digests}
        with suppress(UserError):  # A cache that cannot be written is none.
            atomic.write(file, msgspec.json.encode(_Known(card, current)))
    return [known[digest] for digest in digests]


def _cache_file(folder: Folder) -> Path:
    root = url_of(folder.root) or os.path.abspath(folder.root)
    return cache_folder() / f"{_hash(root, folder.space.name, folder.split, folder.annotation, *folder.ids)}.json"


def _card(folder: Folder) -> str:
    """Return a digest of all that decides, beside an image's own files, what is found in it."""
    shared = None if folder.card.reader.per_image else folder.files(0).annotations
    return _hash(_version(), folder.card.model_dump_json(), "" if shared is None else _state(str(shared)))


@cache
def _version() -> str:
    return metadata.version("manyseg")


def _digest(folder: Folder, index: int) -> str:
    return _hash(*map(_state, folder.own_paths(index)))


def _hash(*texts: str) -> str:
    # Names of files that are no Unicode hold surrogates.
    return hashlib.blake2b("\0".join(texts).encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _state(path: str) -> str:
    """Return what changes when a file does: its path, size and time of change."""
    return f"{path} {file_state(path)}"
