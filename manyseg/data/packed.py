"""Packed datasets: the files of a dataset in tar shards, read by byte ranges, with an index of their names.

`manyseg pack` writes such a folder; it may lie on a disk or in an object store. A path `FOLDER/manyseg-pack.json/NAME`
stands for the packed file NAME, so that the rest of the package knows paths alone: `FOLDER/manyseg-pack.json` is the
dataset's root, and an address of a store is a path that has lost a slash, `s3:/bucket/street/manyseg-pack.json`.
"""

from __future__ import annotations

import os
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from io import BufferedReader, RawIOBase
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec
import numpy as np

from manyseg.data.stores import read_url, sizes_beside, url_of
from manyseg.errors import UserError

__all__ = [
    "INDEX",
    "PIECE",
    "DamagedError",
    "Index",
    "Pack",
    "Shard",
    "load_pack",
    "pack_of",
    "packed_root",
]

INDEX = "manyseg-pack.json"
"""The name of the file that makes a folder a pack."""

VERSION = 1

PIECE = 1 << 20
"""Bytes that are read at once of a file that is packed, or whose checksum is looked at."""

AHEAD = 1 << 16
"""Bytes that are read at least of a file of which parts are read."""

PACK_AGAIN = "copy the pack again, or make it anew with `manyseg pack`"


class DamagedError(OSError):
    """A packed file is not what was packed; the message says which shard is at fault."""


class Shard(msgspec.Struct, frozen=True):
    """A tar file of a pack, and how long it is."""

    file: str
    bytes: int


class Index(msgspec.Struct, frozen=True):
    """The content of the index: the n-th file has the n-th entry of each list, and `names` are sorted.

    `shard` is a position in `shards`, `offset` and `size` are bytes within it, `crc32` is the checksum of those.
    """

    version: int
    dataset: str
    card: str
    shards: list[Shard]
    names: list[str]
    shard: list[int]
    offset: list[int]
    size: list[int]
    crc32: list[int]


class Pack:
    """An open pack; reading is safe in threads and in forked processes, as nothing stays open between reads.

    Raises UserError, naming the file at fault, for an index that is damaged, and for shards that are missing or have
    another size than when they were written.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.url = place, url_of(place)
        try:
            data = place.read_bytes() if self.url is None else read_url(self.url)
            index = msgspec.json.decode(data, type=Index)
        except FileNotFoundError:
            raise UserError(
                f"{self.url or place}: there is no packed dataset; correct the root, or make it: manyseg pack"
            ) from None
        except OSError as e:
            raise UserError(f"{self.url or place}: cannot be read ({' '.join(str(e).split())}); {PACK_AGAIN}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise UserError(f"{self.url or place}: not the index of a pack ({e}); {PACK_AGAIN}") from None
        if index.version != VERSION:
            raise UserError(
                f"{self.url or place}: made by another version of manyseg (format {index.version}, this one reads "
                f"{VERSION}); make it anew with `manyseg pack`"
            )
        self.state = f"{zlib.crc32(data):08x} {len(data)}"
        """What changes when the index does."""
        self.shards, self.names = index.shards, index.names
        self._check(index)
        self._shard, self._offset = np.array(index.shard, np.int32), np.array(index.offset, np.int64)
        self._size, self._crc = np.array(index.size, np.int64), np.array(index.crc32, np.uint32)

    def _check(self, index: Index) -> None:
        count, lengths = len(index.names), [s.bytes for s in index.shards]
        fields = (index.shard, index.offset, index.size, index.crc32)
        whole = all(len(f) == count for f in fields) and all(a < b for a, b in pairwise(self.names))
        if whole and count:
            shard, offset, size, crc = (np.array(f, np.int64) for f in fields)
            whole = bool(
                (shard.min() >= 0 and shard.max() < len(lengths) and min(offset.min(), size.min(), crc.min()) >= 0)
                and (offset + size <= np.array(lengths)[shard]).all()
                and crc.max() < 1 << 32
            )
        if not whole:
            raise UserError(f"{self.url or self.place}: the index is damaged; {PACK_AGAIN}")
        found = self._sizes()
        for s in index.shards:
            if (size_now := found.get(s.file)) != s.bytes:
                now = "is missing" if size_now is None else f"has {size_now} bytes, and not {s.bytes}"
                raise UserError(f"{self._shard_place(s.file)}: this shard {now}; {PACK_AGAIN}")

    def _sizes(self) -> dict[str, int]:
        """Return the size of every file beside the index."""
        if self.url is None:
            with os.scandir(self.place.parent) as entries:
                return {e.name: e.stat().st_size for e in entries if e.is_file()}
        return sizes_beside(self.url)

    def _shard_place(self, file: str) -> str:
        return str(self.place.with_name(file)) if self.url is None else f"{self.url.rpartition('/')[0]}/{file}"

    def __contains__(self, name: str) -> bool:
        at = bisect_left(self.names, name)
        return at < len(self.names) and self.names[at] == name

    def _at(self, name: str) -> int:
        at = bisect_left(self.names, name)
        if at == len(self.names) or self.names[at] != name:
            raise FileNotFoundError(f"no file '{name}' in the pack {self.url or self.place}")
        return at

    def below(self, folder: str) -> Iterator[str]:
        """Yield the names of all files in a folder and in those below it; "" is the root."""
        start = f"{folder}/" if folder else ""
        for at in range(bisect_left(self.names, start), len(self.names)):
            if not self.names[at].startswith(start):
                return
            yield self.names[at]

    def size(self, name: str) -> int:
        """Return the bytes of a file; raises FileNotFoundError if there is none of the name."""
        return int(self._size[self._at(name)])

    def checksum(self, name: str) -> str:
        """Return what changes when the content of a file does; raises FileNotFoundError."""
        at = self._at(name)
        return f"{self._size[at]} {self._crc[at]:08x}"

    def read(self, name: str) -> bytes:
        """Return the content of a file; raises FileNotFoundError, or DamagedError where it is not what was packed."""
        data = self.read_part(name, 0, self.size(name))
        self._check_sum(name, len(data), zlib.crc32(data))
        return data

    def read_part(self, name: str, start: int, size: int) -> bytes:
        """Return bytes of a file, from `start` on, with no look at its checksum; raises FileNotFoundError."""
        at = self._at(name)
        shard, size = self.shards[self._shard[at]], max(0, min(size, int(self._size[at]) - start))
        first = int(self._offset[at]) + start
        if self.url is None:
            with self.place.with_name(shard.file).open("rb", buffering=0) as file:
                file.seek(first)
                return file.read(size)
        return read_url(self._shard_place(shard.file), first, first + size)

    def open(self, name: str) -> BinaryIO:
        """Open a file to read parts of it, with no look at its checksum; raises FileNotFoundError."""
        self._at(name)
        return cast(BinaryIO, BufferedReader(_PackedFile(self, name), AHEAD))

    def verify(self, name: str) -> None:
        """Read a file of any size in parts; raises FileNotFoundError, or DamagedError as `read`."""
        found, crc, size = 0, 0, self.size(name)
        while found < size and (data := self.read_part(name, found, PIECE)):
            found, crc = found + len(data), zlib.crc32(data, crc)
        self._check_sum(name, found, crc)

    def _check_sum(self, name: str, size: int, crc: int) -> None:
        at = self._at(name)
        if size != self._size[at] or crc != self._crc[at]:
            place = self._shard_place(self.shards[self._shard[at]].file)
            raise DamagedError(f"{place} is not as it was packed: another checksum")


def packed_root(folder: Path) -> Path | None:
    """Return the root of the packed dataset that a folder holds, or an address stands for; None for other folders."""
    if folder.name == INDEX:
        return folder
    return folder / INDEX if url_of(folder) is not None or (folder / INDEX).is_file() else None


class _PackedFile(RawIOBase):
    """A file of a pack that is read by ranges: nothing stays open."""

    def __init__(self, pack: Pack, name: str) -> None:
        self.pack, self.file, self.position = pack, name, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.pack.size(self.file)}[whence]
        self.position = start + offset
        return self.position

    def readinto(self, buffer: Any) -> int:
        data = self.pack.read_part(self.file, self.position, len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


class Packed(NamedTuple):
    """A file of a pack; `name` is "" for the pack's root."""

    pack: Pack
    name: str


def pack_of(path: str | Path) -> Packed | None:
    """Return the pack, and the name in it, that a path stands for, or None for an ordinary file."""
    text = os.fspath(path)
    place, found, name = f"{text}/".partition(f"/{INDEX}/")
    return Packed(load_pack(f"{place}/{INDEX}"), name.removesuffix("/")) if found else None


def load_pack(place: str) -> Pack:
    """Return the pack of an index, which is read once; one that has changed on the disk is read anew."""
    if url_of(place) is not None:
        return _loaded(place, (0, 0))
    try:
        found = os.stat(place)
    except OSError:
        return Pack(Path(place))  # Which says what is wrong.
    return _loaded(place, (found.st_size, found.st_mtime_ns))


@lru_cache
def _loaded(place: str, state: tuple[int, int]) -> Pack:
    return Pack(Path(place))
