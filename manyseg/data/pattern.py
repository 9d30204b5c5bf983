"""Where a dataset's files are: patterns such as `images/{split}/{id}.png`, and the ids they stand for.

A pattern is a path relative to the dataset's root. `{id}` matches anything, also across folders. Where the image and
its mask differ in the middle of the path (`{scene}/color/{frame}.jpg`), other names each match within one folder, and
the id is their values joined with "/". `{split}` is the split's folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from manyseg.errors import UserError

__all__ = ["fields", "fill", "find", "read_list", "regex", "values"]

FIELD = re.compile(r"\{(\w+)\}")


def fields(pattern: str) -> tuple[str, ...]:
    """List the names in braces, in order of appearance, without `split`."""
    return tuple(dict.fromkeys(n for n in FIELD.findall(pattern) if n != "split"))


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
    folder = "/".join(text.split("{")[0].split("/")[:-1])
    matching = re.compile(regex(text))
    found = []
    # Links are followed: datasets are often assembled from links.
    for place, _, files in os.walk(root / folder, followlinks=True):
        base = Path(place).relative_to(root).as_posix()
        for name in files:
            match = matching.fullmatch(name if base == "." else f"{base}/{name}")
            if match and not name.startswith("."):
                found.append("/".join({**known, **match.groupdict()}[n] for n in names))
    return sorted(found)


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
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such split list; write it (one id a line), or correct the card") from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: the split list cannot be read ({e}); save it as UTF-8 text, one id a line") from None
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        image_id = line.strip()
        if image_id in first:
            raise UserError(
                f"{path}: '{image_id}' is listed twice, in lines {first[image_id]} and {number}; remove one"
            )
        if image_id:
            first[image_id] = number
    return list(first)
