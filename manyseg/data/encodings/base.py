"""What every encoding is: a way in which annotation files spell the labels of an image.

Everything here is NumPy, so that cards can be read and compared without loading a deep-learning framework.
Axes: H W pixels, R regions, N boxes or tags, D classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np

from manyseg.data.bands import band_size
from manyseg.data.files import DataError, opened
from manyseg.data.finding import Finding
from manyseg.data.photo import shown_size
from manyseg.data.raster import value_counts
from manyseg.data.window import Size, Window, size_text
from manyseg.labels import IGNORE

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Integer

__all__ = [
    "Encoding",
    "Found",
    "ImageFiles",
    "ImageTags",
    "ObjectBoxes",
    "Overlap",
    "Raw",
    "RawValues",
    "Regions",
    "Said",
    "found_size",
]

Raw: TypeAlias = int | str
"""What a file holds in the place of a class: a number, a colour "#rrggbb", or a word."""

UNKNOWN_VALUE = "give the value to a class of the card, or list it under `ignore`"
"""What to do about a raw value that the card does not name."""


Overlap: TypeAlias = Literal["smallest", "last", "first", "none"]
"""Which of several objects has a pixel: the smallest one, the one that the file lists last or first, or none of them.

With "none" pixels under objects of several classes have no label; those under several of one class are the smallest's.
"""


class Said(NamedTuple):
    """What a card says of a raw value: the name of its class, and whether that is countable (None: nothing)."""

    name: str
    thing: bool | None


class RawValues(NamedTuple):
    """What a card says of the raw values in its files.

    `positions` maps a value to its class, or to IGNORE; `others_ignored` says that values that are not in it have no
    label, and are no error. `identified[d]`: every object of class d has an id, so that pixels of none are unknown.
    `said` is the class of every value as the card wrote it, before classes were merged.
    Of objects that are drawn, `overlap` says which is on top, and `background` is the class of pixels under none.
    """

    positions: Mapping[Raw, int]
    others_ignored: bool
    identified: Bool[np.ndarray, " D"]
    said: Mapping[Raw, Said]
    overlap: Overlap = "smallest"
    background: int = IGNORE

    def classes(self, values: Iterable[Raw], file: Path, what: str) -> Int[np.ndarray, " N"]:
        """Return the classes of `values`, or IGNORE; raises DataError naming `file` for those not in the card."""
        values = list(values)
        unknown = [] if self.others_ignored else [v for v in dict.fromkeys(values) if v not in self.positions]
        if unknown:
            raise DataError.joined(
                [DataError(file, f"{what} {v!r} is not in the card", UNKNOWN_VALUE) for v in unknown]
            )
        return np.array([self.positions.get(v, IGNORE) for v in values], np.int64)

    def tags(self, values: Iterable[Raw], file: Path) -> ImageTags:
        """Return the classes of an image's tags."""
        classes = np.unique(self.classes(values, file, "tag"))
        return ImageTags(classes[classes != IGNORE])


class ImageFiles(NamedTuple):
    """The files of one image; `name` is what records call it: the path of its mask, or else of the image.

    `banded` says that the card chooses bands of the image, which is then no picture of an ordinary format, and
    `turned` that annotations are of the image as its EXIF orientation shows it. Of labels of pixels what lies in
    `window` is read alone, which banded images always have; boxes and tags are read whole.
    """

    id: str
    name: str
    image: Path
    mask: Path | None = None
    instances: Path | None = None
    annotations: Path | None = None
    banded: bool = False
    turned: bool = False
    window: Window | None = None

    def image_size(self) -> Size:
        """Return the image's (height, width) from its header."""
        if self.banded:
            return band_size(self.image)
        with opened(self.image) as image:
            return shown_size(image, self.turned)

    def unlike(self, annotated: Size, native: Size) -> DataError:
        """Say that the annotation is of another size than the image; both are (height, width)."""
        what = "mask" if self.mask else "entry"
        return DataError(
            self.mask or self.annotations or self.image,
            f"{what} is {size_text(annotated)} but the image is {size_text(native)}",
            f"give both one size, or remove the pair (image: {self.image})",
            place="" if self.mask else f"'{self.id}'",
        )


class Regions(NamedTuple):
    """An image cut into regions: `plane` holds each pixel's region, a row of the other two.

    `classes` are positions, or IGNORE. `known` is false where it is unknown which object a pixel belongs to: a crowd,
    or a thing without an instance id. Such regions have a class as Dense, and are ignored as Segments.
    `counted` are the pixels of the first regions, where the encoding has counted them; the others have none.
    `findings` are what is worth a look in the files.
    """

    plane: Integer[np.ndarray, "H W"]
    classes: Integer[np.ndarray, " R"]
    known: Bool[np.ndarray, " R"]
    counted: Integer[np.ndarray, " N"] | None = None
    findings: Sequence[Finding] = ()

    @property
    def pixels(self) -> Integer[np.ndarray, " R"]:
        """How many pixels each region has."""
        counts = value_counts(self.plane) if self.counted is None else self.counted
        pixels = np.zeros(len(self.classes), counts.dtype)
        pixels[: len(counts)] = counts[: len(pixels)]
        return pixels

    def labels(self) -> Integer[np.ndarray, "H W"]:
        """Return the class of every pixel, or IGNORE, in the fewest bits that hold all classes."""
        ends = self.classes.min(initial=IGNORE), self.classes.max(initial=IGNORE)
        classes = self.classes.astype(np.result_type(*map(_narrowest, ends)))
        if self.plane.dtype != np.uint8 or classes.itemsize > 1:
            return classes.take(self.plane)
        # A third of the time of NumPy's look-up, which widens the plane to 64 bits.
        table = np.full(256, IGNORE, np.int8)
        table[: len(classes)] = classes[:256]
        return np.frombuffer(bytearray(self.plane).translate(table.tobytes()), np.int8).reshape(self.plane.shape)

    def segments(self, things: Bool[np.ndarray, " D"]) -> tuple[Int[np.ndarray, "H W"], Int[np.ndarray, " N"]]:
        """Return each pixel's segment, or IGNORE, and the segments' classes; no segment is empty.

        A region is a segment where its class is a thing, and all regions of a class are one segment where it is not.
        """
        rows = np.flatnonzero((self.pixels > 0) & self.known & (self.classes != IGNORE))
        classes = self.classes[rows].astype(np.int64)
        # Stuff regions take the key of their class, below all keys of things.
        key = np.where(things[classes], len(things) + np.arange(len(rows)), classes)
        _, first, segment = np.unique(key, return_index=True, return_inverse=True)
        table = np.full(len(self.classes), IGNORE, np.int64)
        table[rows] = segment
        return table[self.plane], classes[first]


def _narrowest(value: int) -> np.dtype:
    return np.min_scalar_type(min(int(value), -int(value) - 1))


class ObjectBoxes(NamedTuple):
    """Boxes (x0, y0, x1, y1 in pixels, ends exclusive) with classes, in an image of size (height, width).

    `findings` are what is worth a look in the file.
    """

    boxes: Float[np.ndarray, "N 4"]
    classes: Int[np.ndarray, " N"]
    size: Size
    findings: Sequence[Finding] = ()

    @classmethod
    def within(
        cls,
        size: Size,
        corners: Float[np.ndarray, "M 4"],
        classes: Int[np.ndarray, " M"],
        findings: Sequence[Finding] = (),
    ) -> ObjectBoxes:
        """Cut boxes off at the image's edges; those without area and those of no class are left out."""
        corners = corners.clip(0, np.array([*size[::-1], *size[::-1]], corners.dtype))
        kept = (corners[:, 2:] > corners[:, :2]).all(1) & (classes != IGNORE)
        return cls(corners[kept], classes[kept], size, findings)


class ImageTags(NamedTuple):
    """Classes that occur somewhere in the image, sorted; `findings` are what is worth a look in the file."""

    classes: Int[np.ndarray, " N"]
    findings: Sequence[Finding] = ()


Found: TypeAlias = Regions | ObjectBoxes | ImageTags
"""What an encoding reads."""


def found_size(found: Found) -> Size | None:
    """Return the (height, width) that an annotation was made for; None if it does not say."""
    if isinstance(found, Regions):
        return found.plane.shape[0], found.plane.shape[1]
    return found.size if isinstance(found, ObjectBoxes) else None


class Encoding(ABC):
    """How the annotation files of one split spell labels. A new one is a file here, and a line of `ENCODINGS`.

    The class says what a card may ask of it: `needs` and `may_have` are keys of the card that name files; `kind` is a
    key of `annotation.KINDS`; `values` is what a raw value is, numbers lie in 0 .. `limit` - 1; `objects` says that it
    knows nothing but countable things; `named` that a class without a value is called by its own name; `per_image` that
    `annotations` is a file of one image, not of all; `by_name` that it calls images by their path, not their id;
    `drawn` that objects are drawn and can lie over each other; `sized` that the files say how large the image is.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    may_have: ClassVar[frozenset[str]] = frozenset()
    kind: ClassVar[Literal["dense", "segments", "boxes", "tags"]]
    values: ClassVar[Literal["number", "color", "word", "number or name"]] = "number"
    limit: ClassVar[int] = 1 << 31
    objects: ClassVar[bool] = False
    named: ClassVar[bool] = False
    per_image: ClassVar[bool] = False
    by_name: ClassVar[bool] = True
    drawn: ClassVar[bool] = False
    sized: ClassVar[bool] = True

    def __init__(self, values: RawValues) -> None:
        self.raw = values

    def prepare(self, annotations: Path, images: Sequence[str]) -> None:  # noqa: B027  (most encodings share nothing)
        """Read the annotation file that all images share, if there is one; `images` are the split's names for them.

        Raises UserError if the file is broken as a whole.
        """

    def findings(self) -> Iterator[Finding]:
        """Say what is worth a look in the annotation file that all images share."""
        return iter(())

    def unused(self) -> list[str]:
        """List the names of entries of the annotation file that belong to no image of the split."""
        return []

    @abstractmethod
    def read(self, files: ImageFiles) -> Found:
        """Read the annotation of one image; `files.instances` is None where objects need not be told apart.

        Raises DataError naming the file at fault.
        """

    @abstractmethod
    def size(self, files: ImageFiles) -> Size | None:
        """Return the image's (height, width) as the annotation has it, without decoding; None if it does not say."""
