"""Tables of classes that lie beside masks: names by number or by colour, in the forms that tools write."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from manyseg.data.encodings import Raw
from manyseg.data.encodings.schema import load_json, read_bytes
from manyseg.data.files import file_size
from manyseg.errors import UserError
from manyseg.labels.colors import HEX_COLOR, hex_color, is_hex_color

__all__ = ["ClassTable", "TableRow", "class_tables", "is_void", "may_be_table", "stated_color"]

LARGEST = 1 << 20
"""Bytes; a longer file is no table of classes."""

SUFFIXES = (".txt", ".csv", ".json", ".tsv", ".names")

NAMES = re.compile(r"class|label|name|color|colour|categor|palette|config|meta|legend|objectinfo|id2", re.IGNORECASE)
"""What the name of a file with a table of classes has in it."""

NO_NAME = re.compile(rf"[-+]?[\d.]+%?|{HEX_COLOR}|[0-9a-fA-F]{{6}}")
"""A cell that is a number or a colour."""

VOID = re.compile(
    r"void|ignored?|ignore[ _]label|un-?labell?ed|undefined|unknown|don'?t[ _]care|no[ _]label|out of roi"
    r"|rectification border",
    re.IGNORECASE,
)
"""Names of what is no class."""


@dataclass(frozen=True)
class TableRow:
    """A class of a table, its number and colour "#rrggbb" where the table has them; `used` is false for no class."""

    name: str
    number: int | None = None
    color: str | None = None
    used: bool = True


@dataclass(frozen=True)
class ClassTable:
    """A file with names of classes."""

    file: str
    rows: Sequence[TableRow] = field(default=())

    def by_number(self) -> dict[Raw, TableRow]:
        """Return the rows that have a number, or all by their order if none has."""
        if all(row.number is None for row in self.rows):
            return {i: row for i, row in enumerate(self.rows)}  # noqa: C416  (the type of keys is wider)
        return {row.number: row for row in self.rows if row.number is not None}

    def by_color(self) -> dict[Raw, TableRow]:
        """Return the rows that have a colour; of one colour the first."""
        rows: dict[Raw, TableRow] = {}
        for row in self.rows:
            if row.color is not None:
                rows.setdefault(row.color, row)
        return rows


def stated_color(value: object) -> str | None:
    """Return a colour that a file states as "#rrggbb" or red, green, blue and maybe alpha; None if it is neither."""
    if isinstance(value, list) and len(value) in (3, 4) and all(type(v) is int and 0 <= v < 256 for v in value):
        return hex_color(value[:3])
    return value.lower() if isinstance(value, str) and is_hex_color(value) else None


def is_void(name: str) -> bool:
    """Say whether a name means that a pixel has no label."""
    return VOID.fullmatch(name.strip().strip("_")) is not None


def class_tables(root: Path, files: Iterable[str]) -> list[ClassTable]:
    """Read the tables of classes among files below `root`, those nearest to it first; of equal ones the first."""
    found: list[ClassTable] = []
    small = (f for f in files if may_be_table(f) and file_size(root / f) <= LARGEST)
    for file in sorted(small, key=lambda f: (f.count("/"), f)):
        path = root / file
        try:
            rows = list(_json_rows(load_json(path)) if path.suffix.lower() == ".json" else _text_rows(path))
        except UserError:
            continue
        named = [row for row in rows if row.name]
        if named and len({row.name for row in named}) > 1 and all(table.rows != named for table in found):
            found.append(ClassTable(file, named))
    return found


def may_be_table(file: str) -> bool:
    """Say whether a file has the name of a table of classes."""
    if not file.lower().endswith(SUFFIXES):  # As most: there are as many masks as images.
        return False
    path = PurePosixPath(file)
    return NAMES.search(path.stem + path.suffix.replace(".names", "names")) is not None


def _text_rows(path: Path) -> Iterator[TableRow]:
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError:
        text = read_bytes(path).decode("latin-1")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        return
    mark = max(",;\t:", key=lambda c: sum(line.count(c) for line in lines))
    if mark in lines[0]:
        table = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=mark)]
        table = [[cell for part in row for cell in (part.split(",") if mark == ":" else [part])] for row in table]
    else:
        table = [re.split(r"\s+", line.strip()) for line in lines]
        if not any(cell.isdecimal() for row in table for cell in row):
            table = [[line.strip()] for line in lines]
    for row in table:
        numbers = [int(cell) for cell in row if cell.isdecimal()]
        words = [cell for cell in row if cell and not NO_NAME.fullmatch(cell)]
        colors = [cell for cell in row if is_hex_color(cell)]
        if not words or (not numbers and not colors and len(table[-1]) > 1):
            continue  # The head of the table.
        rgb = _three_bytes(row)
        color = colors[0].lower() if colors else hex_color(rgb) if rgb else None
        number = numbers[0] if numbers and row and row[0].isdecimal() and not (rgb and len(numbers) == 3) else None
        name = " ".join(words) if mark not in lines[0] else max(words, key=len) if rgb is None else words[0]
        if number is None and rgb is None and numbers:
            number = numbers[0]
        yield TableRow(name, number, color, not is_void(name))


def _three_bytes(row: Sequence[str]) -> list[int] | None:
    """Return the last three neighbouring cells that are a colour."""
    for end in range(len(row), 2, -1):
        cells = row[end - 3 : end]
        if all(c.isdecimal() and int(c) < 256 for c in cells):
            return [int(c) for c in cells]
    return None


def _json_rows(data: Any) -> Iterator[TableRow]:
    """Read a list of classes, or an object of them by name or number, maybe in a field of its own."""
    if isinstance(data, dict):
        for key in ("labels", "classes", "categories", "id2label", "names"):
            if key in data and isinstance(data[key], dict | list):
                yield from _json_rows(data[key])
                return
        for key, value in data.items():
            if isinstance(value, str) and str(key).isdecimal():
                yield TableRow(value, int(key), None, not is_void(value))
            elif isinstance(value, int) and not isinstance(value, bool):
                yield TableRow(key, value, None, not is_void(key))
            elif isinstance(value, list) and (color := stated_color(value)) is not None:
                yield TableRow(key, None, color, not is_void(key))
        return
    for number, entry in enumerate(data if isinstance(data, list) else []):
        if isinstance(entry, str):
            yield TableRow(entry, number, None, not is_void(entry))
        elif isinstance(entry, dict):
            yield _json_row(number, entry)


def _json_row(number: int, entry: dict[str, Any]) -> TableRow:
    name = next((entry[k] for k in ("readable", "name", "title", "label") if isinstance(entry.get(k), str)), "")
    given = next((entry[k] for k in ("id", "value", "index") if isinstance(entry.get(k), int)), number)
    used = entry.get("evaluate") is not False and not is_void(name)
    return TableRow(name, given, stated_color(entry.get("color")), used)
