"""Files of a dataset: opening images, and the error that names the file."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from manyseg import atomic
from manyseg.data.packed import DamagedError, pack_of
from manyseg.data.parquet import ENDING, cell_of, read_cell
from manyseg.data.stores import url_of
from manyseg.data.window import Size
from manyseg.errors import UserError

__all__ = [
    "DataError",
    "check_ends",
    "check_whole",
    "exists",
    "file_size",
    "file_state",
    "image_size",
    "names_in",
    "opened",
    "pages",
    "reason",
    "stream",
    "write_image",
]

# What Pillow raises for files that are broken in one way or another.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    # A damaged header leads Pillow into any of these.
    TypeError,
    KeyError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)

ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ")
"""How archives begin, and files that a packer has made smaller."""

SUBFILE, COPY = 254, 0b101
"""The tag of TIFF that says what a page is, and its bits for a reduced copy and for a mask of another page."""


class DataError(UserError):
    """A file of a dataset is at fault.

    `what` says how, in words that are the same for the same fault elsewhere; `place` says where in the file: an object,
    a field and its value. `values` are the raw values at fault with their pixel counts, most frequent first; `fix` says
    what to do. `others` are further faults of the same image.
    """

    def __init__(
        self,
        file: str | Path,
        what: str,
        fix: str,
        values: tuple[tuple[Any, int], ...] = (),
        place: str = "",
        others: Sequence[DataError] = (),
    ) -> None:
        self.file, self.what, self.fix, self.values = url_of(file) or str(file), what, fix, values
        self.place, self.others = place, tuple(others)
        detail = ""
        if values:
            more = f" and {len(values) - 1} more values" if len(values) > 1 else ""
            detail = f": value {values[0][0]} on {values[0][1]} pixels{more}"
        more = f" (and {len(others)} more faults of this image)" if others else ""
        super().__init__(f"{self.file}: {place + ': ' if place else ''}{what}{detail}{more}; {fix}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, self.what, self.fix, self.values, self.place, self.others)

    @classmethod
    def joined(cls, faults: Sequence[DataError]) -> DataError:
        """Make one error of several faults of an image."""
        first = faults[0]
        return cls(first.file, first.what, first.fix, first.values, first.place, faults[1:])


def stream(path: Path) -> BinaryIO:
    """Open a file for reading: an ordinary one, one of a packed dataset, or a picture within a Parquet file.

    This is the one way in which files of datasets are opened. Raises OSError, FileNotFoundError among them, and
    DataError for a packed file that is damaged and for pipes, which may never end.
    """
    if (packed := pack_of(path)) is not None:
        try:
            return BytesIO(packed.pack.read(packed.name))
        except DamagedError as e:
            raise _damaged(path, e) from None
    cell = cell_of(path)
    if cell is not None:
        return BytesIO(read_cell(cell))
    check_ends(path)
    return path.open("rb")


def check_whole(path: Path) -> None:
    """Raise DataError for a packed file that is damaged; of other files nothing is known."""
    if (packed := pack_of(path)) is not None:
        try:
            packed.pack.verify(packed.name)
        except DamagedError as e:
            raise _damaged(path, e) from None


def _damaged(path: Path, error: DamagedError) -> DataError:
    return DataError(path, str(error), "copy that shard again, or pack the dataset anew")


def check_ends(path: Path) -> None:
    """Raise DataError for pipes and devices, which may have no end, and OSError for a file that is not there."""
    kind = path.stat().st_mode
    if not (S_ISREG(kind) or S_ISDIR(kind)):
        raise DataError(path, "a pipe or a device, where a file was promised", "put the file there")


def exists(path: str | Path) -> bool:
    """Say whether there is a file; a picture within a Parquet file is none."""
    packed = pack_of(path)
    return os.path.exists(path) if packed is None else packed.name in packed.pack


def file_size(path: str | Path) -> int:
    """Return the bytes of a file; raises OSError."""
    packed = pack_of(path)
    return os.stat(path).st_size if packed is None else packed.pack.size(packed.name)


def file_state(path: str) -> str:
    """Return what changes when the content of a file does, as far as that is known without reading it."""
    try:
        if (packed := pack_of(path)) is not None:
            return packed.pack.checksum(packed.name)
        cell = cell_of(Path(path)) if f"{ENDING}/" in path.lower() else None
        found = os.stat(path if cell is None else cell.file)
    except (OSError, ValueError):
        return "-"
    return f"{found.st_size} {found.st_mtime_ns}"


def names_in(folder: str | Path) -> list[str]:
    """List the names of the files in a folder, without those in folders below it; none if there is no such folder."""
    packed = pack_of(folder)
    if packed is None:
        try:
            with os.scandir(folder) as entries:
                return [e.name for e in entries if e.is_file()]
        except OSError:
            return []
    start = len(packed.name) + 1 if packed.name else 0
    return [name[start:] for name in packed.pack.below(packed.name) if "/" not in name[start:]]


@contextmanager
def opened(path: Path, otherwise: str = "remove its id from the split") -> Iterator[Image.Image]:
    """Open an image file; raises DataError if it is missing, or found broken before the block ends.

    `otherwise` is what can be done if the file cannot be mended.
    """
    try:
        with stream(path) as file, Image.open(file) as image:
            yield image
    except FileNotFoundError:
        raise DataError(path, "there is no such file", f"add it, or {otherwise}") from None
    except IsADirectoryError:
        raise DataError(path, "a folder, where an image was promised", "correct the card's pattern") from None
    except PermissionError:
        raise DataError(path, "the file may not be read", f"allow it, or {otherwise}") from None
    except UserError:
        raise
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise DataError(path, "a link that leads back to itself", "remove it, or link it to the file") from None
        raise _unreadable(path, e, otherwise) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        what = f"its header asks for more than {limit} million pixels"
        fix = "make it smaller, or cut it (and its annotation, if it has one) into tiles; a TIFF is read by windows"
        raise DataError(path, what, fix) from None
    except BROKEN as e:
        raise _unreadable(path, e, otherwise) from None


def _unreadable(path: Path, error: BaseException, otherwise: str) -> DataError:
    if isinstance(error, UnidentifiedImageError) and (other := _is_instead(path, otherwise)) is not None:
        return DataError(path, *other)
    fix = f"fetch or export the file again, or {otherwise}"
    return DataError(path, f"unreadable or truncated image ({reason(error)})", fix)


def _is_instead(path: Path, otherwise: str) -> tuple[str, str] | None:
    """Say what a file is that is no picture, and what to do: None where that is not known."""
    with stream(path) as file:
        head = file.read(64)
    if not head:
        return "the file is empty", f"fetch or export it again, or {otherwise}"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the image itself", "fetch the images: git lfs pull"
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "a web page, not an image", "fetch the image again; its address may ask for a login, or be gone"
    if head.startswith(ARCHIVES):
        return "an archive, not an image", "unpack it, and put the image here"
    if head.startswith(b"%PDF"):
        return "a PDF, not an image", "convert its page to PNG"
    if b"<svg" in head or (head.startswith(b"<?xml") and path.suffix.lower() == ".svg"):
        return "a drawing (SVG), not an image", "export it as PNG"
    if head.lstrip()[:1] in (b"{", b"[", b"<"):
        return "text such as JSON or XML, not an image", "fetch the image; the text may say why it did not come"
    if head[4:8] == b"ftyp":
        return f"an image or film of the kind {head[8:12].decode('latin-1')}", "convert it to JPEG or PNG"
    return None


def reason(error: BaseException) -> str:
    """Say in words why a picture cannot be read, given one of BROKEN."""
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    if isinstance(error, OSError | SyntaxError | EOFError) or type(error) is ValueError:
        return " ".join(str(error).split()) or "it ends too early"
    return "its content does not fit its format"


def pages(image: Image.Image) -> int:
    """Return how many pictures a file holds; smaller copies and masks of the first one do not count."""
    count = int(getattr(image, "n_frames", 1))
    if count == 1 or image.format != "TIFF":
        return 1 if image.format == "MPO" else count  # Cameras add their previews.
    here, found = image.tell(), 0
    for page in range(count):
        image.seek(page)
        found += not image.tag_v2.get(SUBFILE, 0) & COPY  # type: ignore[attr-defined]
    image.seek(here)
    return found


def image_size(image: Image.Image) -> Size:
    """Return (height, width)."""
    return image.size[1], image.size[0]


def write_image(path: Path, image: Image.Image, **options: Any) -> None:
    """Write a picture in the format that the path's suffix names; `options` are Pillow's for that format."""
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(f"{path}: '{path.suffix}' is no picture format; use .png or .jpg")
    # Encoded in memory: from a file Pillow's encoders report a full disk as "encoder error -2".
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    atomic.write(path, buffer.getvalue())
