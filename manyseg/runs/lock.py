"""One writer a folder: an advisory lock that ends with its process, and the name of who holds it.

The lock is the kernel's, on the file `lock`, which names the holder; a file that a killed process left holds nothing.
It is of the kind that network file systems pass on (POSIX) and that forked processes do not inherit, so that no worker
keeps it when its run is killed. Where a file system has no locks at all, the name in the file is the lock. Readers need
none: whatever they read is replaced as a whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from manyseg import atomic
from manyseg.errors import UserError

__all__ = ["NAME", "only_writer"]

NAME = "lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}
_held: dict[str, str] = {}
"""Locks of this process and what is in their files: to itself the kernel refuses nothing, and gives a lock back where
its process closes another descriptor of the file, so that it must not be read."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the one process that writes into `folder`, which is made; raises UserError naming another one.

    A folder that was made for this and in which nothing was written is removed again.
    """
    new, file = not folder.exists(), folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        key = os.path.realpath(file)
        if key in _held:
            raise _refusal(folder, _held[key])
        descriptor, _held[key] = _take(folder, file)
    except OSError as e:
        raise atomic.cannot_write(folder, e) from e
    try:
        yield
    finally:
        del _held[key]
        file.unlink(missing_ok=True)  # Before it is given up: whoever waits for it looks again.
        os.close(descriptor)
        if new:
            with suppress(OSError):
                folder.rmdir()


def _take(folder: Path, file: Path) -> tuple[int, str]:
    """Lock the file and put this process's name into it; return its open descriptor, and the name."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, folder, file)
            # Else the one who held it until now has removed it: this would be a lock that nobody sees.
            if file.exists() and os.path.samestat(os.stat(file), os.fstat(descriptor)):
                now = datetime.now().astimezone()
                name = f"process {os.getpid()} on {socket.gethostname()} since {now:%Y-%m-%d %H:%M:%S %z}"
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{name}\n".encode())
                return descriptor, name
        except OSError:
            file.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        except UserError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, file: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in (errno.EAGAIN, errno.EACCES):
            raise _refusal(folder, _holder(file)) from None
        if e.errno not in NO_LOCKS:
            raise
        if _alive(file):
            raise _refusal(folder, _holder(file), f"; if it is there no more, remove {file}") from None


def _refusal(folder: Path, holder: str, more: str = "") -> UserError:
    return UserError(
        f"{folder}: {holder or 'another process'} is writing this run; wait for its end, or end it, then go on with "
        f"--resume{more}"
    )


def _holder(file: Path) -> str:
    try:
        return " ".join(file.read_text(encoding="utf-8", errors="replace")[:300].split())
    except OSError:
        return ""


def _alive(file: Path) -> bool:
    """Say whether the process named in the file may still be there; on another machine it may."""
    words = _holder(file).split()
    if len(words) < 4 or not words[1].isdecimal():
        return False
    if words[3] != socket.gethostname():
        return True
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return int(words[1]) != os.getpid()
