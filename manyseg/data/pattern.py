"""Where a dataset's files are: patterns such as `images/{split}/{id}.png`, and the ids they stand for.

A pattern is a path relative to the dataset's root. `{id}` matches anything, also across folders. Where the image and
its mask differ in the middle of the path (`{scene}/color/{frame}.jpg`), other names each match within one folder, and
the id is their values joined with "/". `{split}` is the split's folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from manyseg.data.parquet import rows
from manyseg.errors import UserError
from manyseg.textfile import read_text

__all__ = ["check_below", "fields", "fill", "find", "read_list", "regex", "values"]

FIELD = re.compile(r"\{(\w+)\}")


@lru_cache
def fields(pattern: str) -> tuple[str, ...]:
    """List the names in braces, in order of appearance, without `split`."""
    return tuple(dict.fromkeys(n for n in FIELD.findall(pattern) if n != "split"))


def check_below(what: str, path: str) -> None:
    """Raise UserError for a path or id that leads out of the dataset's root."""
    if path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path) or "\0" in path:
        raise UserError(f"{what} = {path!r} leads out of the dataset's root; give a root that all its files are below")


def values(names: tuple[str, ...], image_id: str) -> dict[str, str]:
    """Take an id apart into the values of `names`; fewer parts than names give the leading ones."""
    parts = [image_id] if len(names) == 1 else image_id.split("/")
    return dict(zip(names, parts, strict=False))


def fill(pattern: str, known: Mapping[str, str]) -> str:
    """Put the known values in; names that are not known stay in braces."""
    return FIELD.sub(lambda m: known.get(m[1], m[0]), pattern)


def find(root: Path, pattern: str, known: Mapping[str, str], names: tuple[str, ...]) -> list[str]:
    """List, sorted, the ids (made of `names`) of the files under `root` that match; hidden files are passed over."""
    text = fill(pattern, known)
    matching = re.compile(regex(text))
    matches = [match for path in _paths(root, text) if (match := matching.fullmatch(path))]
    return sorted("/".join({**known, **match.groupdict()}[n] for n in names) for match in matches)


def _paths(root: Path, text: str) -> Iterator[str]:
    """Yield the files in the folder that a pattern begins with, or rows of Parquet files where it goes into them."""
    outer, inside, cell = text.partition(".parquet/")
    folder = "/".join(outer.split("{")[0].split("/")[:-1])
    holding = re.compile(regex(f"{outer}.parquet"))
    # Links are followed: datasets are often assembled from links.
    for place, _, files in os.walk(root / folder, followlinks=True):
        base = Path(place).relative_to(root).as_posix()
        for name in files:
            if name.startswith("."):
                continue
            path = name if base == "." else f"{base}/{name}"
            if not inside:
                yield path
            elif holding.fullmatch(path):
                column = cell.split("/")[0]
                yield from (f"{path}/{column}/{row}" for row in rows(root / path, column))


def regex(pattern: str) -> str:
    """Return the regular expression of the paths that a pattern matches, with a group for each name."""
    out, seen = "", set[str]()
    for i, piece in enumerate(FIELD.split(pattern)):
        if i % 2 == 0:
            out += re.escape(piece)
        elif piece in seen:
            out += f"(?P={piece})"
        else:
            seen.add(piece)
            out += f"(?P<{piece}>{'.+' if piece == 'id' else '[^/]+'})"
    return out


def read_list(path: Path) -> list[str]:
    """Read the ids of a split, one a line; blank lines mean nothing.

    Raises UserError for a missing file, and for an id that is listed twice.
    """
    try:
        lines = read_text(path).split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such split list; write it (one id a line), or correct the card") from None
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: the split list cannot be read ({e}); save it as UTF-8 text, one id a line") from None
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        image_id = line.strip()
        if image_id in first:
            raise UserError(
                f"{path}: '{image_id}' is listed twice, in lines {first[image_id]} and {number}; remove one"
            )
        if image_id:
            check_below(f"{path}, line {number}", image_id)
            first[image_id] = number
    return list(first)
