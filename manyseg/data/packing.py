"""Writing packed datasets: see `manyseg.data.packed` for what they are."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from manyseg import atomic
from manyseg.data.card import Card, card_text, is_list, read_card
from manyseg.data.class_tables import may_be_table
from manyseg.data.files import exists, file_size, stream
from manyseg.data.folder import Folder
from manyseg.data.packed import INDEX, PIECE, VERSION, Index, Shard, load_pack
from manyseg.data.parquet import ENDING
from manyseg.data.stores import url_exists, url_of, writing_url
from manyseg.data.table_check import beside
from manyseg.errors import UserError, counted
from manyseg.progress import progress

__all__ = ["SHARD_BYTES", "pack", "print_pack"]

SHARD_BYTES = 256 << 20
"""A shard ends before the file that would make it longer than this."""

BLOCK = tarfile.BLOCKSIZE


def pack(card: str | Path, root: str | Path, out: str | Path, *, shard_bytes: int = SHARD_BYTES) -> list[str]:
    """Write the files that a card reads below `root`, of all its splits, as a packed dataset into `out`.

    `out` is a folder, or the address of one in a store that fsspec writes.

    Packed are images, annotations, lists of splits and tables of classes beside masks; the card is written beside the
    index. The same dataset gives the same bytes. Shards are tar files, of at most `shard_bytes` but where one file is
    larger. The index is written last: without it, a folder is no pack. Return what was left out, a line each: splits
    that are not there. Raises UserError if the card or the root is at fault, there is nothing to pack, or `out` is a
    pack already.
    """
    read, out = read_card(card), Path(out)
    if (url := url_of(out / INDEX)) is None:
        atomic.check_target(out / INDEX)
    if (out / INDEX).exists() if url is None else url_exists(url):
        raise UserError(f"{url_of(out) or out}: a packed dataset is there; remove it, or choose another place")
    folders, left = _splits(read, root)
    files = dict(file for folder in folders for file in _files(folder))
    if wrong := [name for name in files if _is_not_unicode(name)]:
        raise UserError(f"{wrong[0]!r}: the name of this file is no Unicode, and cannot be packed; rename it")
    shards: list[Shard] = []
    members: list[_Member] = []
    with progress(f"packing '{read.name}'", len(files)) as done:
        for number, group in enumerate(_grouped(files, shard_bytes)):
            with _writing(out / f"{number:05d}.tar") as tar:
                for name in group:
                    members.append(_Member(name, number, *_add(tar, name, files[name])))
                    done()
                # Two blocks of zeros end an archive, and programs write it in records.
                tar.write(bytes(-(tar.tell() + 2 * BLOCK) % tarfile.RECORDSIZE + 2 * BLOCK))
                shards.append(Shard(f"{number:05d}.tar", tar.tell()))
    columns = [list(column) for column in zip(*sorted(members), strict=True)]
    index = msgspec.json.encode(Index(VERSION, read.name, f"{read.name}.toml", shards, *columns))
    for name, content in ((f"{read.name}.toml", card_text(card).encode()), (INDEX, index)):
        with _writing(out / name) as file:
            file.write(content)
    return left


def _writing(place: Path) -> AbstractContextManager[BinaryIO]:
    """Open a file of a pack that is made, on a disk or in a store."""
    url = url_of(place)
    return atomic.writing(place) if url is None else writing_url(url)


class _Member(NamedTuple):
    """A file in a shard: where its bytes begin, how many they are, and their checksum."""

    name: str
    shard: int
    offset: int
    size: int
    crc32: int


def _splits(card: Card, root: str | Path) -> tuple[list[Folder], list[str]]:
    """Open the splits that are there; say why others are left out."""
    if f"{ENDING}/" in card.image:
        raise UserError(f"{root}: Parquet files are few and large already, and are not packed; copy them as they are")
    folders, left = [], []
    for split in card.splits:
        if card.whole(split) != split:
            continue  # Its images are those of the whole.
        try:
            folders.append(Folder(card, root, split))
        except UserError as e:
            left.append(f"split '{split}' is left out: {e}")
    if not folders:
        raise UserError(left[0].partition(": ")[2])
    return folders, left


def _files(folder: Folder) -> Iterator[tuple[str, Path]]:
    """Yield the files of a split that are there, those of one image together, by their names below the root."""
    card = folder.card
    whole = card.whole(folder.split)
    if is_list(card.splits[whole]):
        yield card.splits[whole], card.list_path(folder.root, whole)
    shared = None if card.reader.per_image else card.annotations
    names = [name for name in beside(folder) if may_be_table(name)] if card.mask is not None else []
    if shared is not None:
        names.append(folder.resolved(shared, 0))
    own = [t for t in (card.image, card.mask, card.instances, card.annotations) if t is not None and t != shared]
    for name in chain(names, (folder.resolved(text, i) for i in range(len(folder)) for text in own)):
        if exists(folder.root / name):
            yield name, folder.root / name


def _grouped(files: Mapping[str, Path], limit: int) -> Iterator[list[str]]:
    """Cut the names into shards, in their order."""
    group: list[str] = []
    total = 0
    for name, path in files.items():
        size = BLOCK + file_size(path) // BLOCK * BLOCK + BLOCK
        if group and total + size > limit:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    yield group


def _add(tar: BinaryIO, name: str, path: Path) -> tuple[int, int, int]:
    """Append a file to a tar archive; return the offset of its bytes, their number and their checksum."""
    member = tarfile.TarInfo(name)
    member.size = file_size(path)
    tar.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
    start, crc = tar.tell(), 0
    with stream(path) as source:
        while piece := source.read(PIECE):
            tar.write(piece)
            crc = zlib.crc32(piece, crc)
    size = tar.tell() - start
    if size != member.size:
        raise UserError(f"{path}: it changed while it was packed; pack again when nothing writes there")
    tar.write(bytes(-size % BLOCK))
    return start, size, crc


def _is_not_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def print_pack(card: str | Path, root: str | Path, out: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Pack a dataset, and print what was left out and what a recipe says of it."""
    for line in pack(card, root, out, shard_bytes=shard_bytes):
        print(line)
    packed = load_pack(str(out / INDEX))
    total = sum(shard.bytes for shard in packed.shards)
    count = f"{len(packed.names)} files in {counted(len(packed.shards), 'shard')}"
    place = url_of(out) or out
    print(f'{place}: {count}, {total / 1e6:.1f} MB; in a recipe: root = "{place}"')
