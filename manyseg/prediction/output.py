"""The contract of files that can be written for images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from manyseg.labels import LabelSpace
from manyseg.prediction.drawing import PixelValues
from manyseg.prediction.prediction import Prediction

__all__ = ["Output"]


class Output(ABC):
    """One kind of file for every image, or one file of all of them that `finish` writes.

    `write` may be called from several threads; what it returns for the images goes to `finish`, in their order.
    """

    needs_scores: ClassVar[bool] = False
    needs_segments: ClassVar[bool] = False
    values_from: ClassVar[int] = 0
    """The value of the first class where no card gives values."""
    needs_card: ClassVar[bool] = False
    """Whether values are those of a card in any case."""
    at_end: ClassVar[tuple[str, ...]] = ()
    """The names of files that `finish` writes."""

    def __init__(self, out: Path, space: LabelSpace, values: PixelValues) -> None:
        self.out, self.space, self.values = out, space, values

    def begin(self, names: Sequence[str]) -> None:  # noqa: B027  # most kinds have nothing to add
        """Check the names of all images before anything is written."""

    @abstractmethod
    def path(self, name: str) -> Path:
        """Return the file, or one of the files, of an image; for one file of all images that file."""

    @abstractmethod
    def write(self, name: str, found: Prediction) -> Any:
        """Write the files of an image, and return what `finish` needs of it."""

    def finish(self, written: Sequence[Any]) -> None:  # noqa: B027  # most kinds have nothing to add
        """Write what stands for all images."""

    def verify(self, images: Sequence[tuple[str, Path]]) -> None:  # noqa: B027  # most kinds have nothing to add
        """Check the files of all images, given by name and path, those of an earlier call among them."""
