"""Files for the server of a benchmark: a label map an image, in the raw values of the dataset's card.

Servers of pixel-level semantic segmentation take one grey PNG of 8 bits an image, of the image's size and name, all in
one folder; they differ in the values alone, which the card has. Palettes are left out: some readers would take them for
colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from manyseg.data.files import DataError, opened, write_image
from manyseg.errors import UserError
from manyseg.labels import LabelSpace
from manyseg.prediction.drawing import PixelValues
from manyseg.prediction.output import Output
from manyseg.prediction.photo import photo_size
from manyseg.prediction.prediction import Prediction

__all__ = ["Submission"]

FAULTS = 3
"""Files at fault that are named."""


class Submission(Output):
    """`submission/<the image's own name>.png`: grey, 8 bits, the card's values; all are verified in the end."""

    needs_card = True

    def __init__(self, out: Path, space: LabelSpace, values: PixelValues) -> None:
        super().__init__(out, space, values)
        if values.dtype is not np.uint8:
            raise UserError(
                f"'{space.name}' has classes of values up to {max(*values.classes, values.ignored)}; a submission has "
                "8 bits; write --segments coco_panoptic, or masks"
            )

    def path(self, name: str) -> Path:
        """Return where the label map of an image is: folders are left out."""
        return self.out / "submission" / f"{name.rpartition('/')[2]}.png"

    def begin(self, names: Sequence[str]) -> None:
        """Raise UserError for two images of one name, whose files would be one."""
        first: dict[Path, str] = {}
        for name in names:
            if (other := first.setdefault(self.path(name), name)) != name:
                raise UserError(f"'{other}' and '{name}' would be one file of a submission; give one set of images")

    def write(self, name: str, found: Prediction) -> None:
        """Write the label map; pixels without a class have the card's value for no label."""
        # IGNORE is -1, the last one.
        values = np.array([*self.values.classes, self.values.ignored], np.uint8)
        write_image(self.path(name), Image.fromarray(values[found.labels]))

    def verify(self, images: Sequence[tuple[str, Path]]) -> None:
        """Raise UserError if the files on disk are not what a server takes: one an image, of its size, of known values.

        Files of an earlier call are verified as well, and so is that there are no others.
        """
        faults = [fault for name, image in images if (fault := self._fault(name, image))]
        expected = {self.path(name) for name, _ in images}
        for file in sorted((self.out / "submission").iterdir()):
            if file not in expected:
                faults.append(f"{file}: of no image that was given; remove it, or choose another --out")
        if faults:
            more = f" and {len(faults) - FAULTS} more" if len(faults) > FAULTS else ""
            raise UserError(f"the submission is not complete: {'; '.join(faults[:FAULTS])}{more}")

    def _fault(self, name: str, image: Path) -> str | None:
        path = self.path(name)
        try:
            with opened(path) as file:
                mode, pixels = file.mode, np.asarray(file)
        except DataError as e:
            return str(e)
        if mode != "L":
            return f"{path}: not a grey PNG of 8 bits; remove it, and predict again with --resume"
        if pixels.shape != photo_size(image):
            height, width = photo_size(image)
            return f"{path}: {pixels.shape[0]}x{pixels.shape[1]} pixels, its image {height}x{width}; remove it"
        strange = set(np.unique(pixels).tolist()) - {*self.values.classes, self.values.ignored}
        return f"{path}: value {min(strange)} is not one of '{self.space.name}'; remove it" if strange else None
