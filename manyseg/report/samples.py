"""Sample pictures of a run: predicted and written after training, and shown in its report.

A sample is `samples/<dataset>-<n>-image.jpg` and, each a colour mask that is transparent where there is no class,
`-truth.png`, `-prediction.png` (both in the dataset's labels) and `-unified.png`; `<dataset>-<n>.json` is their legend.
A picture `<dataset>-<n>.png` that something else has made is shown as it is.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Int, UInt8
from numpy.typing import ArrayLike
from PIL import Image

from manyseg import atomic
from manyseg.data.annotation import Dense, Segments
from manyseg.data.files import write_image
from manyseg.data.folder import Folder
from manyseg.errors import UserError
from manyseg.inference.encoded_images import EncodedImages, OutputSpace
from manyseg.inference.options import TestOptions
from manyseg.labels import IGNORE, LabelSpace
from manyseg.labels.colors import HEX_COLOR
from manyseg.methods.base import Method
from manyseg.relate.unseen import relate_by_names

__all__ = ["PARTS", "Picture", "Shown", "predict_samples", "read_samples", "samples_each", "write_samples"]

PARTS = ("image", "truth", "prediction", "unified")
SAMPLES = 3
"""The largest number of samples of a dataset."""

ALL_SAMPLES = 60
"""The number of samples of all datasets of a run, of which each has at least one."""

MAX_WIDTH = 480
"""The largest width of a picture in pixels; a report of a dozen samples stays below two megabytes."""

_NAME = re.compile(r"(?P<dataset>.+?)-(?P<number>\d+)(-(?P<part>image|truth|prediction|unified))?\.(png|jpe?g)")


class Shown(NamedTuple):
    """One image and its three label maps, arrays or CPU tensors of one height and width.

    `image` is UInt8[3, H, W]; the masks hold positions in a label space, or IGNORE.
    """

    image: ArrayLike
    truth: ArrayLike
    prediction: ArrayLike
    unified: ArrayLike


class Seen(msgspec.Struct):
    """A class of a picture: its colour as #rrggbb, and its share of the pixels in 0..1."""

    name: str
    color: Annotated[str, msgspec.Meta(pattern=f"^{HEX_COLOR}$")]
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Picture(NamedTuple):
    """A sample in a report: data URIs by part (`strip` for a picture of something else), and a legend by part."""

    dataset: str
    number: int
    parts: dict[str, str]
    legend: dict[str, list[Seen]]


def samples_each(datasets: int) -> int:
    """Return how many samples each of so many datasets has."""
    return max(1, min(SAMPLES, ALL_SAMPLES // datasets))


def predict_samples(
    method: Method, folder: Folder, options: TestOptions, skipped: Collection[str] = (), number: int = SAMPLES
) -> list[Shown]:
    """Read `number` images spread evenly over a folder; predict each in the folder's labels and in the unified ones.

    Images whose ids are in `skipped` are left out. The labels of a dataset that was not trained on are related by
    names. The method is put into eval mode.
    """
    method.eval()
    trained_on = folder.space.name in {s.name for s in method.spaces}
    relation = None if trained_on else relate_by_names(folder.space, method.taxonomy)
    outputs = [OutputSpace(folder.space, relation), OutputSpace(method.taxonomy.unified)]
    out = []
    known = [i for i, name in enumerate(folder.ids) if name not in skipped]
    for place in sorted({round(i * (len(known) - 1) / max(number - 1, 1)) for i in range(number)}):
        sample = folder.example(known[place])
        assert isinstance(sample.annotation, Dense | Segments)
        maps = EncodedImages(method, sample.image[None], options.of(folder.space.name)).label_maps(outputs)
        out.append(Shown(sample.image, sample.annotation.labels, *(found[0].cpu() for found in maps)))
    return out


def write_samples(run_folder: Path, space: LabelSpace, unified: LabelSpace, shown: Sequence[Shown]) -> None:
    """Write the samples of one dataset, numbered from 0; `truth` and `prediction` are in `space`.

    Pictures wider than 480 pixels are made smaller. Earlier samples of the same number are replaced.
    """
    folder = run_folder / "samples"
    for number, sample in enumerate(shown):
        stem = f"{space.name}-{number}"
        pixels = np.asarray(sample.image)
        size = _size(pixels.shape[-2:])
        photo = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).resize(size, Image.Resampling.BOX)
        write_image(folder / f"{stem}-image.jpg", photo, quality=85)
        legend = {}
        for part, labels in (("truth", space), ("prediction", space), ("unified", unified)):
            mask = np.asarray(getattr(sample, part))
            if mask.shape != pixels.shape[-2:]:
                raise UserError(
                    f"sample {number} of '{space.name}': {part} is {list(mask.shape)}, its image "
                    f"{list(pixels.shape[-2:])}; give masks at the image's size"
                )
            picture, legend[part] = _paint(mask, labels)
            small = picture.resize(size, Image.Resampling.NEAREST)
            write_image(folder / f"{stem}-{part}.png", small, optimize=True)
        atomic.write(folder / f"{stem}.json", msgspec.json.encode(legend))


def read_samples(run_folder: Path) -> list[Picture]:
    """Read every sample of a run, by dataset and number, to be embedded in a page; broken legends are left out."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for path in sorted((run_folder / "samples").glob("*")):
        if match := _NAME.fullmatch(path.name):
            parts = found.setdefault((match["dataset"], int(match["number"])), {})
            parts[match["part"] or "strip"] = _data_uri(path)
    out = []
    for (dataset, number), parts in sorted(found.items()):
        try:
            written = (run_folder / "samples" / f"{dataset}-{number}.json").read_bytes()
            legend = msgspec.json.decode(written, type=dict[str, list[Seen]])
        except (OSError, msgspec.DecodeError):
            legend = {}
        out.append(Picture(dataset, number, parts, {part: legend.get(part, []) for part in PARTS}))
    return out


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (width, height) for (H, W): at most MAX_WIDTH wide."""
    height, width = shape
    shrink = min(1.0, MAX_WIDTH / width)
    return max(1, round(width * shrink)), max(1, round(height * shrink))


def _paint(mask: Int[np.ndarray, "H W"], space: LabelSpace) -> tuple[Image.Image, list[Seen]]:
    """Return a mask in colours, IGNORE transparent, and its classes with their shares of the pixels, largest first."""
    colors: UInt8[np.ndarray, "D+1 4"] = np.zeros((len(space) + 1, 4), np.uint8)
    colors[:-1, :3], colors[:-1, 3] = space.colors, 255
    # IGNORE is -1, the last row.
    picture = Image.fromarray(colors[mask])
    values, counts = np.unique(mask[mask != IGNORE], return_counts=True)
    legend = [
        Seen(space.names[v], space.hex_colors[v], round(float(n) / mask.size, 4))
        for v, n in sorted(zip(values.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1])
    ]
    return picture, legend


def _data_uri(path: Path) -> str:
    kind = "png" if path.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
