"""What a call of predict has done, and the description of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from manyseg.errors import counted
from manyseg.inference.encoded_images import OutputSpace
from manyseg.labels import LabelSpace
from manyseg.prediction.drawing import PixelValues
from manyseg.prediction.model import Model

__all__ = ["Summary", "describe"]


@dataclass(frozen=True)
class Summary:
    """What was predicted: `files` are those of the first kind, one for every image or video that could be read.

    `done` images, or frames as the `unit` says, were predicted, and the files of `kept` more were there from an earlier
    call. `pixels` and `images` count, for every class, its pixels, and the images or frames in which it occurs. `busy`
    is the share of the `seconds` in which the network worked.
    """

    files: list[Path]
    out: Path
    kinds: tuple[str, ...]
    unit: str
    space: LabelSpace
    done: int
    kept: int
    pixels: Int[np.ndarray, " D"]
    images: Int[np.ndarray, " D"]
    seconds: float
    busy: float

    def to_text(self) -> str:
        """Return what was done, where it is, and a line for every class that occurs, largest first."""
        pace = self.done / max(self.seconds, 1e-9)
        kept = f" ({self.kept} more were there)" if self.kept else ""
        lines = [
            f"{self._count(self.done)} in {self.seconds:.1f} s{kept}: {pace:.3g} a second, the network busy "
            f"{self.busy:.0%} of the time",
            f"{self.out}: {', '.join(self.kinds)}; labels.json has the classes and their values",
        ]
        order = [int(c) for c in np.argsort(-self.pixels, kind="stable") if self.pixels[c]]
        width = max((len(self.space.names[c]) for c in order), default=0)
        total = int(self.pixels.sum())
        for c in order:
            share = f"{self.pixels[c] / total:.1%}"
            where = self._count(int(self.images[c]))
            lines.append(f"  {self.space.names[c]:<{width}}  {share:>6} of the pixels, in {where}")
        return "\n".join(lines)

    def _count(self, number: int) -> str:
        return counted(number, self.unit.removesuffix("s"))


def describe(output: OutputSpace, values: PixelValues, kinds: Sequence[str], source: str, model: Model) -> str:
    """Return the content of labels.json: classes by value, and a sum by which `resume` knows what made them."""
    space = output.space
    rows = [
        {"value": value, "name": name, "color": color}
        for value, name, color in zip(values.classes, space.names, space.hex_colors, strict=True)
    ]
    relation = b"" if output.relation is None else output.relation.tobytes()
    made = json.dumps([source, model.options.model_dump(), hashlib.sha256(relation).hexdigest()], sort_keys=True)
    tree = {
        "space": space.name,
        "classes": rows,
        "ignored": values.ignored,
        "kinds": list(kinds),
        "made_by": hashlib.sha256(made.encode()).hexdigest(),
    }
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
