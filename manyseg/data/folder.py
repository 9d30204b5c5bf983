"""A dataset on disk, read as its card says: a map from index to `Sample`.

Cards can be read and datasets checked without a deep-learning framework: torch is loaded where a sample is made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from manyseg.data import bands, locate
from manyseg.data.bands import BandWindows, ValueRange, opened_windows
from manyseg.data.card import Card
from manyseg.data.encodings import Found, ImageFiles, found_size
from manyseg.data.files import DataError, image_size, opened
from manyseg.data.finding import Finding
from manyseg.data.hub_sets import local_root
from manyseg.data.photo import orientation, read_rgb, shown_size, turned
from manyseg.data.split_ids import filled, find_ids, split_text
from manyseg.data.window import EVERYTHING, Size, Window
from manyseg.errors import UserError
from manyseg.labels import LabelSpace

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

    from manyseg.data.annotation import Annotation
    from manyseg.data.batch import Sample

__all__ = ["Folder", "ImageWindows", "OpenedImage"]

MIDDLE = 2048
"""Side of the part of a large image that is looked at as an example."""

# What each kind of annotation can be weakened to; see annotation.convert.
WEAKER = {
    "dense": ("dense", "tags"),
    "segments": ("segments", "dense", "boxes", "tags"),
    "boxes": ("boxes", "tags"),
    "tags": ("tags",),
}


class OpenedImage(NamedTuple):
    """An image whose header was read: `turned` says that its EXIF orientation is to be applied, `size` is that then."""

    file: Image.Image
    turned: bool
    size: Size
    value_range: ValueRange | None

    def rgb(
        self, least: Size | None = None, part: Callable[[Size], Window] | None = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Decode it, or the `part` that is chosen by its size; see `read_rgb`."""
        return read_rgb(self.file, least, self.turned, self.value_range, part)


class ImageWindows(NamedTuple):
    """An open image of many bands with its annotation, of which windows are read."""

    folder: Folder
    files: ImageFiles
    image: BandWindows

    @property
    def size(self) -> Size:
        """The image's (height, width)."""
        return self.image.size

    def pixels(self, window: Window, least: Size | None = None) -> UInt8[Tensor, "3 h w"]:
        """Read a window of the image, maybe at a reduced scale, but not smaller than `least` (height, width)."""
        import torch

        return torch.from_numpy(self.image.read(*window) if least is None else self.image.reduced(window, least))

    def annotation(self, window: Window) -> Annotation:
        """Read the labels of a window, of a folder whose annotations label pixels; else the whole annotation."""
        return self.folder.as_annotation(self.folder.found(self.files._replace(window=window)))


class Folder:
    """One split of a dataset: cheap to build and to pickle, reads nothing but ids before it is asked.

    `annotation` is "native" or a key of `annotation.KINDS` to weaken what the files hold. Raises UserError if the
    split is unknown or empty, or the kind cannot be had. COCO JSON files are parsed at the first read, once a process;
    `prepare` before forking workers, and they share it.
    """

    def __init__(self, card: Card, root: str | Path, split: str = "train", annotation: str = "native") -> None:
        self.card, self.root, self.split = card, local_root(root), split
        self._root = str(self.root)
        self.annotation = card.kind if annotation == "native" else annotation
        if self.annotation not in WEAKER[card.kind]:
            known = ", ".join(("native", *WEAKER[card.kind]))
            raise UserError(
                f"card '{card.name}': annotation '{annotation}' cannot be had from {card.kind}; use: {known}"
            )
        self.ids = find_ids(card, self.root, split)
        self._split_text = split_text(card, split)
        self._encoding = card.reader(card.raw_values)
        self._prepared = False

    @property
    def space(self) -> LabelSpace:
        """The card's label space."""
        return self.card.space

    def __len__(self) -> int:
        return len(self.ids)

    def drawn(self, images: int) -> Folder:
        """Return a folder of `images` of this one's, drawn at random but always the same; fewer lie among more."""
        if images > len(self):
            whole = f"split '{self.split}' of dataset '{self.card.name}'"
            raise UserError(f"{whole} has {len(self)} images, not {images}; draw fewer")
        part = copy.copy(self)
        chosen = np.random.default_rng(0).permutation(len(self))[:images]
        part.ids = tuple(self.ids[i] for i in sorted(chosen))
        if not self._prepared:  # Else what was loaded is shared.
            part._encoding = self.card.reader(self.card.raw_values)
        return part

    def image_path(self, index: int) -> Path:
        """Return where the image is."""
        return self.root / self.resolved(self.card.image, index)

    def size(self, index: int) -> Size:
        """Return the image's (height, width) from its header."""
        files = self.files(index)
        if files.banded:
            return files.image_size()
        with opened(files.image) as image:
            return shown_size(image, self._is_turned(files, image, self._annotated_size(files, image)))

    def read(
        self,
        index: int,
        target: Callable[[Size], Size] | None = None,
        part: Callable[[Annotation, Size, Size], Window] | None = None,
    ) -> Sample:
        """Read one image with its annotation, which is always at native size.

        `target` says to what (height, width) the caller will resize an image of the native one: a JPEG may then be
        decoded at a reduced scale, never smaller than that. `part` chooses, by the annotation and the native and the
        decoded size, the window of the decoded image that is returned. Raises DataError naming the file at fault.
        """
        import torch

        from manyseg.data.annotation import Boxes
        from manyseg.data.batch import Sample

        if self.card.bands is not None:
            with self.windows(self.files(index)) as parts:
                native = parts.size
                image = parts.pixels(Window.whole(native), None if target is None else target(native))
                annotation = parts.annotation(Window.whole(native))
            if part is not None:
                (top, bottom), (left, right) = part(annotation, native, (image.shape[-2], image.shape[-1])).ranges
                image = image[:, top:bottom, left:right]
        else:
            annotation, annotated = self.annotated(index)
            chosen = None if part is None else partial(part, annotation)
            image, native = self.read_image(index, annotated, target, chosen)
        if isinstance(annotation, Boxes):
            annotation = annotation._replace(extent=torch.tensor(native))
        return Sample(self.ids[index], image, annotation)

    def example(self, index: int, target: Callable[[Size], Size] | None = None) -> Sample:
        """Read one image with its annotation to be looked at, as `read`: of a large one the part in its middle."""
        if not self.is_large(index):
            return self.read(index, target)
        from manyseg.data.batch import Sample

        with self.windows(self.files(index)) as parts:
            height, width = (min(side, MIDDLE) for side in parts.size)
            window = Window((parts.size[0] - height) // 2, (parts.size[1] - width) // 2, height, width)
            return Sample(self.ids[index], parts.pixels(window), parts.annotation(window))

    def is_large(self, index: int) -> bool:
        """Say whether an image has many bands and is so large that it is only seen by windows."""
        if self.card.bands is None:
            return False
        height, width = self.size(index)
        return height * width >= bands.LARGE

    @property
    def by_windows(self) -> bool:
        """Whether images and labels can be read by windows: those of cards with bands, with labels of pixels."""
        return self.card.bands is not None and self.annotation in ("dense", "segments")

    @contextmanager
    def windows(self, files: ImageFiles) -> Iterator[ImageWindows]:
        """Open an image of a card with `bands`, to read windows of it; raises DataError for a fault."""
        card = self.card
        with opened_windows(files.image, card.bands, card.range) as image:
            self.check_size(files, image.size)
            yield ImageWindows(self, files, image)

    def check_size(self, files: ImageFiles, native: Size) -> None:
        """Raise DataError where an annotation says that it was made for an image of another (height, width)."""
        self.prepare()
        annotated = None if self.card.kind == "tags" else self._encoding.size(files)
        if annotated is not None and annotated != native:
            raise files.unlike(annotated, native)

    def read_image(
        self,
        index: int,
        annotated: Size | None = None,
        target: Callable[[Size], Size] | None = None,
        part: Callable[[Size, Size], Window] | None = None,
    ) -> tuple[UInt8[Tensor, "3 H W"], Size]:
        """Read the image alone, with its native size; `annotated` is the size it must have, the others as in `read`."""
        from manyseg.data.batch import image_tensor

        with self.opened(self.files(index), annotated) as photo:
            least = None if target is None else target(photo.size)
            pixels = photo.rgb(least, None if part is None else partial(part, photo.size))
            return image_tensor(pixels), photo.size

    @contextmanager
    def opened(self, files: ImageFiles, annotated: Size | None = None) -> Iterator[OpenedImage]:
        """Open an image without decoding it; `annotated` is the size that it must have."""
        card = self.card
        with opened(files.image) as file:
            turn = self._is_turned(files, file, annotated)
            native = shown_size(file, turn)
            if annotated is not None and annotated != native:
                raise files.unlike(annotated, native)
            yield OpenedImage(file, turn, native, card.range)

    def read_annotation(self, index: int) -> Annotation:
        """Read the annotation alone."""
        return self.annotated(index)[0]

    def annotated(self, index: int) -> tuple[Annotation, Size | None]:
        """Read the annotation, weakened as asked, and the size (height, width) that it was made for, if it says."""
        found = self.found(self.files(index))
        return self.as_annotation(found), found_size(found)

    def as_annotation(self, found: Found) -> Annotation:
        """Return what the files say as tensors, weakened as asked."""
        from manyseg.data.annotation import as_annotation

        things = np.array([c.thing for c in self.space.classes])
        return as_annotation(found, self.annotation, things)

    def found(self, files: ImageFiles) -> Found:
        """Read what the files say of one image, before it is weakened."""
        self.prepare()
        return self._encoding.read(files)

    def parts(self, files: ImageFiles) -> Iterator[ImageFiles]:
        """Cut one image, if it has many bands and labels of pixels, into windows that each fit into memory."""
        if not files.banded or self.card.kind not in ("dense", "segments"):
            yield files
            return
        for window in Window.strips(files.image_size()):
            yield files._replace(window=window)

    def _is_turned(self, files: ImageFiles, image: Image.Image, annotated: Size | None) -> bool:
        return turned(files.image, image, self.card.exif, annotated, self.card.reader.sized)

    def _annotated_size(self, files: ImageFiles, image: Image.Image) -> Size | None:
        """Return the annotation's size, without decoding, where the EXIF orientation is judged by it."""
        if orientation(image) == 1 or self.card.exif is not None or self.card.kind == "tags":
            return None
        self.prepare()
        return self._encoding.size(files) or image_size(image)

    def _fill(self, text: str, index: int) -> str:
        return filled(self.card, self._split_text, text, self.ids[index])

    def resolved(self, text: str, index: int) -> str:
        """Return, from the root on, where the file of an image is that one of the card's patterns means."""
        return locate.resolve(self._root, self._fill(text, index))

    def own_paths(self, index: int) -> list[str]:
        """Return where the files are that are of one image alone, as text: for much work on many images."""
        card = self.card
        own = [card.image, card.mask, card.instances, card.annotations if card.reader.per_image else None]
        out = []
        for text in own:
            if text is not None:
                filled = self._fill(text, index)
                with suppress(UserError):  # Two files: reading the image says so.
                    filled = locate.resolve(self._root, filled)
                out.append(f"{self._root}/{filled}")
        return out

    def files(self, index: int) -> ImageFiles:
        """Return where the files of an image are."""
        card = self.card
        separate = self.annotation not in ("dense", "tags")  # Whether objects are to be told apart.
        image = self.resolved(card.image, index)
        mask = None if card.mask is None else self.resolved(card.mask, index)
        own = [card.instances if separate else None, card.annotations]
        instances, annotations = (None if text is None else self.root / self.resolved(text, index) for text in own)
        return ImageFiles(
            self.ids[index],
            mask or image,
            self.root / image,
            None if mask is None else self.root / mask,
            instances,
            annotations,
            card.bands is not None,
            card.exif == "applied",
            None if card.bands is None else EVERYTHING,
        )

    def prepare(self) -> None:
        """Load now what all reads share: the annotation file, if there is one. Raises UserError if it is broken."""
        if self._prepared or self.card.annotations is None or self.card.reader.per_image:
            return
        name = self.card.mask or self.card.image
        images = [self._called(name, i) for i in range(len(self))] if self.card.reader.by_name else self.ids
        self._encoding.prepare(self.root / self.resolved(self.card.annotations, 0), images)
        self._prepared = True

    def _called(self, name: str, index: int) -> str:
        try:
            return self.resolved(name, index)
        except UserError:
            return self._fill(name, index)  # Two files: reading the image says so.

    @contextmanager
    def named(self, index: int) -> Iterator[None]:
        """Name the image in whatever error is raised that is no UserError: memory that ran out, or a fault of ours."""
        try:
            yield
        except MemoryError:
            what = "memory ran out while the image or its annotation was read"
            raise DataError(self.image_path(index), what, "make it smaller, or cut it into tiles") from None
        except UserError:
            raise
        except Exception as e:
            e.add_note(f"while {self.image_path(index)} was read")
            raise

    def findings(self) -> Iterator[Finding]:
        """Say what is worth a look in the annotation file that all images share."""
        self.prepare()
        yield from self._encoding.findings()

    def unused(self) -> list[str]:
        """List the names of entries of the annotation file that belong to no image of the split."""
        self.prepare()
        return self._encoding.unused()
