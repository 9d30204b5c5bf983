"""The one way to write a file: aside in the same folder, synced to the disk, then renamed over the target.

Whoever reads finds the old file or the new one, never half of one, and a writer that fails leaves the old one as it
was and nothing beside it. A process that is killed can leave a hidden file whose name begins with `PREFIX`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

from manyseg.errors import UserError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PREFIX", "cannot_write", "check_target", "sync", "write", "write_arrays", "writing"]

PREFIX = ".writing-"
"""Begins the name of every file that is not complete yet."""

Content = str | bytes | Callable[[BinaryIO], object]
"""Text (written as UTF-8), bytes, or a function that writes into an open binary file."""

_ADVICE = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room on the disk",
    errno.ENOTDIR: "a part of the path is a file; choose another place",
    errno.EEXIST: "a part of the path is a file; choose another place",
    errno.EISDIR: "a folder has this name; choose another one",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def write(path: str | Path, content: Content) -> Path:
    """Replace the file at `path`, or make it together with the folders that it lies in; return the path.

    A symbolic link is followed: what it points to is replaced. A device or pipe is written to as it is. Raises
    UserError where nothing can be written, for a folder, and for a file that is write-protected; the old file is then
    as it was.
    """
    with writing(path) as file:
        if callable(content):
            content(file)
        else:
            file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


@contextmanager
def writing(path: str | Path) -> Iterator[BinaryIO]:
    """Yield an open binary file that takes the place of that at `path` when the block ends without an error.

    Everything else is as with `write`: for files that grow while they are made.
    """
    path = Path(path)
    try:
        if _takes_a_stream(path):
            with path.open("wb") as file:
                yield file
        else:
            with _replacing(Path(os.path.realpath(path))) as file:
                yield file
    except OSError as e:
        raise cannot_write(path, e) from e


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays, compressed, as an npz that `numpy.load` reads; names may be any text, as those of datasets are.

    numpy's own `savez` takes names as keyword arguments, of which it keeps some, such as `file`, for itself.
    """
    from numpy.lib import format as npy

    def fill(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    npy.write_array(member, array, allow_pickle=False)

    return write(path, fill)


def check_target(path: str | Path) -> None:
    """Raise, before the work, the UserError that `write` would raise after it: as far as that can be told by now."""
    path = Path(path)
    try:
        if _takes_a_stream(path):
            return
        place = Path(os.path.realpath(path)).parent
        while not os.path.lexists(place):
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as e:
        raise cannot_write(path, e) from e


def cannot_write(path: Path, error: OSError) -> UserError:
    """Say in one line why a file cannot be written, and what to do about it."""
    advice = _ADVICE.get(error.errno or 0, "choose a place where you may write")
    return UserError(f"{path}: cannot be written ({error.strerror or error}); {advice}")


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, onto the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return  # Not every system can open a folder.
        raise
    try:
        os.fsync(descriptor)
    except OSError as e:
        # Some network file systems do not sync folders; their servers keep names by themselves.
        if e.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _takes_a_stream(path: Path) -> bool:
    """Say whether `path` is a device or a pipe; raises OSError for a folder and all else that is no ordinary file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
        raise OSError(errno.EPERM, "it is no ordinary file")
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return not stat.S_ISREG(mode)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(PREFIX + uuid4().hex)
    try:
        with aside.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, aside)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)
