"""Where a dataset's files are: patterns such as `images/{split}/{id}.png`, and the ids they stand for.

A pattern is a path relative to the dataset's root. `{id}` matches anything, also across folders. Where the image and
its mask differ in the middle of the path (`{scene}/color/{frame}.jpg`), other names each match within one folder, and
the id is their values joined with "/". `{split}` is the split's folder. `{jpg,png}` is a choice. The suffix of a file
may be in capital letters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from manyseg.data.files import stream
from manyseg.errors import UserError
from manyseg.textfile import decode

__all__ = [
    "Part",
    "check_below",
    "choices",
    "fields",
    "fill",
    "part",
    "read_list",
    "regex",
    "values",
]

FIELD = re.compile(r"\{(\w+)\}")
CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
PART = re.compile(r"([\w-]+)\[(\d+%?)?:(\d+%?)?\]")
LONGEST_NAME, LONGEST_PATH = 255, 4000
"""Bytes of what file systems take."""
T = TypeVar("T")


class Part(NamedTuple):
    """A part of another split: its images, in order of their ids, from `start` to `stop`: `"600"`, or `"80%"`."""

    split: str
    start: str
    stop: str

    def of(self, ids: Sequence[T]) -> list[T]:
        """Return the part of a sequence; parts that meet at a place share nothing and leave nothing out."""
        start, stop = (int(p[:-1]) * len(ids) // 100 if p.endswith("%") else int(p) for p in self[1:])
        return list(ids[start:stop])


def part(value: str) -> Part | None:
    """Read a split that is a part of another one, as `all[:80%]`, `all[80%:]` or `all[:600]`; else return None."""
    match = PART.fullmatch(value)
    return None if match is None else Part(match[1], match[2] or "0", match[3] or "100%")


@lru_cache
def fields(pattern: str) -> tuple[str, ...]:
    """List the names in braces, in order of appearance, without `split`."""
    return tuple(dict.fromkeys(n for n in FIELD.findall(pattern) if n != "split"))


def check_below(what: str, path: str) -> None:
    """Raise UserError for a path or id that leads out of the dataset's root, or is longer than a file's can be."""
    up = ".." in path and ".." in re.split(r"[/\\]", path)  # Lists have millions of lines: first what is quick.
    if "\0" in path:
        raise UserError(f"{what} = {path!r} has a character that is in no name of a file; save it as plain text")
    if up or path.startswith(("/", "\\")):
        raise UserError(f"{what} = {path!r} leads out of the dataset's root; give a root that all its files are below")
    # A character has at most 4 bytes.
    if 4 * len(path) > LONGEST_NAME and (
        _size(path) > LONGEST_PATH or max(map(_size, re.split(r"[/\\]", path))) > LONGEST_NAME
    ):
        raise UserError(
            f"{what} = '{path[:40]}...' is too long for a file: names have at most {LONGEST_NAME} bytes, paths "
            f"{LONGEST_PATH}; shorten it"
        )


def _size(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def values(names: tuple[str, ...], image_id: str) -> dict[str, str]:
    """Take an id apart into the values of `names`; fewer parts than names give the leading ones."""
    parts = [image_id] if len(names) == 1 else image_id.split("/")
    return dict(zip(names, parts, strict=False))


def fill(pattern: str, known: Mapping[str, str]) -> str:
    """Put the known values in; names that are not known stay in braces."""
    pieces = list(_pieces(pattern))
    pieces[1::2] = [known.get(name, f"{{{name}}}") for name in pieces[1::2]]
    return "".join(pieces)


@lru_cache
def _pieces(pattern: str) -> tuple[str, ...]:
    """Take a pattern apart: every second piece is a name."""
    return tuple(FIELD.split(pattern))


def choices(text: str) -> list[str]:
    """List what a pattern with choices can mean: `{id}.{jpg,png}` is `{id}.jpg` or `{id}.png`."""
    if "," not in text:
        return [text]
    match = CHOICE.search(text)
    if match is None:
        return [text]
    return [c for option in match[1].split(",") for c in choices(text[: match.start()] + option + text[match.end() :])]


def regex(pattern: str, suffix: str | None = None) -> str:
    """Return the regular expression of the paths that a pattern matches, with a group for each name.

    The case of the suffix does not matter; `suffix`, an expression, takes the place of the pattern's own.
    """
    stem, dot, end = pattern.rpartition(".")
    if dot and "/" not in end and not FIELD.search(end):
        return f"{_regex(stem)}(?i:{_regex(dot + end) if suffix is None else suffix})"
    return _regex(pattern)


def _regex(pattern: str) -> str:
    out, seen = "", set[str]()
    for i, piece in enumerate(FIELD.split(pattern)):
        if i % 2 == 0:
            for j, part in enumerate(CHOICE.split(piece)):
                out += f"(?:{'|'.join(map(re.escape, part.split(',')))})" if j % 2 else re.escape(part)
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
        with stream(path) as file:
            lines = decode(file.read()).split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such split list; write it (one id a line), or correct the card") from None
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: the split list cannot be read ({e}); save it as UTF-8 text, one id a line") from None
    ids = [image_id for line in lines if (image_id := line.strip())]
    if len(set(ids)) < len(ids):
        first: dict[str, int] = {}
        for number, line in enumerate(lines, 1):
            image_id = line.strip()
            if image_id and first.setdefault(image_id, number) != number:
                raise UserError(
                    f"{path}: '{image_id}' is listed twice, in lines {first[image_id]} and {number}; remove one"
                )
    return ids
