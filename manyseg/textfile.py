"""The one way to read the text that people and their tools wrote, and the one form of tables."""

from __future__ import annotations

import codecs
import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

__all__ = ["decode", "read_table", "read_text", "table_text"]

DELIMITERS = ("\t", ";", ",")
"""What separates the cells of a table, as spreadsheets save it."""


def read_text(path: Path) -> str:
    """Read UTF-8 with or without a byte order mark, or UTF-16 with one; raises OSError or UnicodeDecodeError."""
    return decode(path.read_bytes())


def decode(data: bytes) -> str:
    """Decode what `read_text` reads; line ends of every system become a line feed."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def read_table(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table that are not empty, each with its number from 1 on; cells are stripped.

    Cells are separated by tabs, or by semicolons or commas where the first row has no tab; they may be in quotes.
    """
    first = text.partition("\n")[0]
    delimiter = next((d for d in DELIMITERS[:1] if d in first), max(DELIMITERS[1:], key=first.count))
    # By default a cell has 131,072 characters at most: a node of a large label space needs more.
    csv.field_size_limit(sys.maxsize)
    for number, row in enumerate(csv.reader(io.StringIO(text), delimiter=delimiter), 1):
        cells = [cell.strip() for cell in row]
        if any(cells):
            yield number, cells


def table_text(rows: Iterable[Sequence[object]]) -> str:
    """Write a table with tabs, as `read_table` and spreadsheets read it: a cell that begins with a quote is in quotes.

    Cells hold neither tabs nor line ends.
    """
    return "".join("\t".join(map(_cell, row)) + "\n" for row in rows)


def _cell(value: object) -> str:
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if text.startswith('"') else text
