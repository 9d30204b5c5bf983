"""Pictures that are kept in Parquet files: a path `FILE.parquet/COLUMN/ROW` stands for the picture in that cell.

A cell is a struct with `bytes`, as Hugging Face's `datasets` writes images, or the bytes themselves.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from manyseg.errors import UserError

__all__ = ["ENDING", "Cell", "cell_of", "picture_columns", "read_cell", "rows"]

ENDING = ".parquet"

GROUPS = 4
"""Row groups of a column that each process keeps: a group is read as a whole, and its rows lie close in order."""

_LOCK = threading.Lock()

DIGITS = 8
"""Digits of a row's name, so that names are sorted as numbers are."""


class Cell(NamedTuple):
    """A cell of a Parquet file."""

    file: Path
    column: str
    row: int


def cell_of(path: Path) -> Cell | None:
    """Return the cell that a path stands for, or None if it is the path of an ordinary file."""
    if not path.name.isdecimal() or (file := path.parent.parent).suffix.lower() != ENDING:
        return None
    return Cell(file, path.parent.name, int(path.name))


def rows(file: Path, column: str) -> Iterator[str]:
    """Yield the names of the rows of a file; none if it has no such column."""
    opened = _opened(file, _state(file))
    if column in opened.schema_arrow.names:
        yield from (f"{row:0{DIGITS}}" for row in range(opened.metadata.num_rows))


def picture_columns(file: Path) -> list[str]:
    """List the columns that hold pictures: structs with `bytes`, or those that Hugging Face's features call images."""
    schema = _opened(file, _state(file)).schema_arrow
    told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = told.get("info", {}).get("features", {}).items()
    images = {name for name, feature in features if isinstance(feature, dict) and feature.get("_type") == "Image"}
    return [f.name for f in schema if f.name in images or "struct<bytes: binary" in str(f.type)]


def read_cell(cell: Cell) -> bytes:
    """Return the picture in a cell; raises FileNotFoundError if there is none."""
    state, row = _state(cell.file), cell.row
    with _LOCK:
        opened = _opened(cell.file, state)
        for group in range(opened.metadata.num_row_groups):
            count = opened.metadata.row_group(group).num_rows
            if row < count and cell.column in opened.schema_arrow.names:
                value = _column(cell.file, state, group, cell.column)[row].as_py()
                data = value.get("bytes") if isinstance(value, dict) else value
                if isinstance(data, bytes):
                    return data
                break
            row -= count
    raise FileNotFoundError(f"no picture in row {cell.row} of column '{cell.column}'")


@lru_cache(maxsize=GROUPS)
def _column(file: Path, state: tuple[int, int], group: int, column: str) -> Any:
    # One thread: workers are forked, and threads do not survive that.
    return _opened(file, state).read_row_group(group, [column], use_threads=False).column(0)


def _state(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=64)
def _opened(file: Path, state: tuple[int, int]) -> Any:
    """Open a file; one that has changed on the disk is opened anew."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{file}: Parquet files need pyarrow; pip install 'manyseg[parquet]'") from None
    try:
        # Mapped into memory, so that forked workers do not share a position in the file.
        return parquet.ParquetFile(file, memory_map=True)
    except (ArrowException, OSError) as e:
        reason = " ".join(str(e).split())
        raise UserError(f"{file}: not a Parquet file ({reason}); fetch it again") from None
