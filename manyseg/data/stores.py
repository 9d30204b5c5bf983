"""Files at addresses of stores, by fsspec: `s3://bucket/street`, `https://host/card.toml`.

As a path an address has lost a slash, `s3:/bucket/street`, and still stands for the address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from manyseg.errors import UserError

__all__ = ["read_url", "sizes_beside", "url_exists", "url_of", "writing_url"]

SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/+")


def url_of(root: str | Path) -> str | None:
    """Return the address that a root or file stands for, also as a path, which has lost a slash; None for paths."""
    text = os.fspath(root)
    match = SCHEME.match(text)
    if match is None:
        return None
    return f"{match[1]}://{'/' if match[1] in ('file', 'local') else ''}{text[match.end() :]}"


@cache
def _system(url: str, process: int) -> tuple[Any, str]:
    """Return fsspec's file system and path of an address; every process has its own, as forks cannot share them."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UserError(f"{url}: addresses need fsspec; pip install 'manyseg[stores]'") from None
    try:
        system, path = url_to_fs(url)
    except (ImportError, ValueError) as e:
        reason = " ".join(str(e).split())
        raise UserError(f"{url}: this kind of address cannot be read ({reason}); install what it needs") from None
    return system, str(path)


def url_exists(url: str) -> bool:
    """Say whether there is a file at an address; raises UserError where fsspec cannot read its kind."""
    system, path = _system(url, os.getpid())
    return bool(system.exists(path))


@contextmanager
def writing_url(url: str) -> Iterator[BinaryIO]:
    """Yield an open file that lies at an address when the block ends; of a block that fails, a part may stay there.

    Raises UserError where nothing can be written there.
    """
    system, path = _system(url, os.getpid())
    try:
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        with system.open(path, "wb") as file:
            yield file
    except (OSError, NotImplementedError) as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise UserError(f"{url}: cannot be written ({reason}); choose an address where you may write") from e


def read_url(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """Return the content of the file at an address, or its bytes from `start` to before `end`.

    Raises OSError, and UserError where fsspec cannot read its kind.
    """
    system, path = _system(url, os.getpid())
    data: bytes = system.cat_file(path, start=start, end=end)
    return data


def sizes_beside(url: str) -> dict[str, int]:
    """Return the bytes of each file in the folder of the file at an address, by name; raises as `read_url`."""
    system, path = _system(url, os.getpid())
    listed = system.ls(path.rpartition("/")[0], detail=True)
    return {str(e["name"]).rpartition("/")[2]: int(e["size"]) for e in listed if e["type"] == "file"}
