"""From patterns to the files that are there: what matches one, and which file a filled pattern means."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from manyseg.data import pattern
from manyseg.data.files import DataError, exists, names_in
from manyseg.data.packed import pack_of
from manyseg.data.parquet import rows
from manyseg.errors import UserError

__all__ = ["check_folder", "find", "fixed_folder", "resolve", "walk"]


def check_folder(root: Path, advice: str) -> None:
    """Raise UserError, with advice, where there is no folder `root`."""
    if pack_of(root) is not None:
        return
    if root.is_file():
        raise UserError(f"{root}: is a file, not a folder; unpack it if it is an archive, and {advice}")
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; {advice}")


def find(root: Path, text: str, known: Mapping[str, str], names: tuple[str, ...]) -> list[str]:
    """List, sorted, the ids (made of `names`) of the files under `root` that match; hidden files are passed over."""
    filled = pattern.fill(text, known)
    matching = re.compile(pattern.regex(filled))
    found = set()
    for path in _paths(root, filled):
        match = matching.fullmatch(path)
        if match and not path.rpartition("/")[2].startswith("."):
            found.add("/".join({**known, **match.groupdict()}[n] for n in names))
    return sorted(found)


def _paths(root: Path, text: str) -> Iterator[str]:
    """Yield the files in the folder that a pattern begins with, or rows of Parquet files where it goes into them."""
    outer, inside, cell = text.partition(".parquet/")
    holding = re.compile(pattern.regex(f"{outer}.parquet"))
    for path in walk(root, fixed_folder(outer)):
        if not inside:
            yield path
        elif holding.fullmatch(path):
            column = cell.split("/")[0]
            yield from (f"{path}/{column}/{row}" for row in rows(root / path, column))


def fixed_folder(text: str) -> str:
    """Return the folder that all files lie below that a pattern matches; "" is the root."""
    return text.partition("{")[0].rpartition("/")[0]


def walk(root: Path, folder: str) -> Iterator[str]:
    """Yield the paths, relative to `root`, of all files below one of its folders; links are followed.

    Folders whose names begin with a dot, in which programs keep copies of their own, are passed over.

    Raises UserError for a link to a folder that it lies in, and for a folder that may not be read.
    """
    if (packed := pack_of(root)) is not None:
        yield from packed.pack.below(folder)
        return
    stack: list[tuple[str, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while stack:
        place, above = stack.pop()
        path = root / place
        try:
            known = os.stat(path)
            with os.scandir(path) as entries:
                inside = [(f"{place}/{e.name}" if place else e.name, _is_folder(e)) for e in entries]
                inside = [(name, folder) for name, folder in inside if not (folder and _is_hidden(name))]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as e:
            raise UserError(f"{path}: the folder cannot be read ({e.strerror}); allow it, or remove it") from None
        key = known.st_dev, known.st_ino
        if key in above:
            raise UserError(f"{path}: a link to a folder that it lies in, so that its files have no end; remove it")
        for name, is_folder in inside:
            if is_folder:
                stack.append((name, above | {key}))
            else:
                yield name


def _is_hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # A link to itself.


def resolve(root: Path | str, text: str) -> str:
    """Return the path of the file that a filled pattern means, or the first choice where there is none.

    Its suffix may be written in capital letters. Raises DataError where there is more than one file.
    """
    options = pattern.choices(text)
    found = [option for option in options if exists(f"{root}/{option}")]
    found = found or [path for option in options for path in _other_case(root, option)]
    if len(found) > 1:
        what = f"an image has two files (also {found[1]})"
        raise DataError(Path(root, found[0]), what, "keep one of them, or name one suffix alone in the card")
    return found[0] if found else options[0]


def _other_case(root: Path | str, text: str) -> list[str]:
    """List the files beside `text` whose names differ from its own by the case of their suffix, or in composed letters.

    An umlaut is one character or two, as the system has it on which a file was named.
    """
    folder, slash, name = text.rpartition("/")
    place = f"{root}/{folder}" if folder else str(root)
    try:
        packed = pack_of(place)
        names = _by_folded_suffix(place, str(os.stat(place).st_mtime_ns) if packed is None else packed.pack.state)
    except OSError:
        return []
    return [folder + slash + other for other in names.get(_folded(name), ())]


@lru_cache(64)
def _by_folded_suffix(folder: str, state: str) -> dict[str, list[str]]:
    """List the names in a folder; `state` changes when they do."""
    out: dict[str, list[str]] = {}
    for name in names_in(folder):
        out.setdefault(_folded(name), []).append(name)
    return out


def _folded(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return unicodedata.normalize("NFC", stem) + suffix.lower()
