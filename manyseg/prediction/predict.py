"""Images and folders to files, in any of a model's label spaces: label maps, overlays and what else is asked for.

Images are read and files are written in threads while the network works, which sees consecutive images of one size
together. The EXIF orientation of photos is respected, and folders keep their tree.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Int

from manyseg import atomic
from manyseg.errors import UserError
from manyseg.inference.encoded_images import OutputSpace
from manyseg.labels import LabelSpace
from manyseg.prediction.drawing import PixelValues
from manyseg.prediction.map_files import Confidence, GeoJSON, Masks, Overlays, ScoreArrays
from manyseg.prediction.model import Labels, Model, Relate
from manyseg.prediction.output import Output
from manyseg.prediction.pipeline import Job, Pipeline
from manyseg.prediction.segment_files import Coco, CocoPanoptic, InstanceIds
from manyseg.progress import progress

__all__ = ["OUTPUTS", "Summary", "list_images", "predict_paths"]

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""The suffixes of images in a folder; a file that is given by its path may have any."""

OUTPUTS: Mapping[str, type[Output]] = {
    "masks": Masks,
    "overlays": Overlays,
    "confidence": Confidence,
    "scores": ScoreArrays,
    "geojson": GeoJSON,
    "coco": Coco,
    "coco_panoptic": CocoPanoptic,
    "instance_ids": InstanceIds,
}
"""The kinds of files by the names that the command line uses."""

PICTURES = ("masks", "overlays", "confidence", "panoptic", "instances", "results")
"""The folders of `out` in which these kinds leave pictures, which are no images to segment."""

UNSHARED = (
    "datasets share no unified node: the %d nodes are the classes of all datasets side by side, and a picture mixes "
    "their names. Predict in the labels of one dataset (--labels %s), or relate the datasets (`manyseg labels RUN -o "
    "labels.tsv`) and train with the table (method.name=manual, method.taxonomy=labels.tsv)"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What was predicted: `files` are those of the first kind, one for every image that could be read.

    `kept` of them were there from an earlier call. `pixels` and `images` count, for every class, the pixels that it has
    in the others, and the images in which it occurs. `busy` is the share of the `seconds` in which the network worked.
    """

    files: list[Path]
    out: Path
    kinds: tuple[str, ...]
    space: LabelSpace
    kept: int
    pixels: Int[np.ndarray, " D"]
    images: Int[np.ndarray, " D"]
    seconds: float
    busy: float

    def to_text(self) -> str:
        """Return what was done, where it is, and a line for every class that occurs, largest first."""
        new = len(self.files) - self.kept
        kept = f" ({self.kept} more were there)" if self.kept else ""
        lines = [
            f"{new} images in {self.seconds:.1f} s{kept}: {new / max(self.seconds, 1e-9):.3g} a second, the network "
            f"busy {self.busy:.0%} of the time",
            f"{self.out}: {', '.join(self.kinds)}; labels.json has the classes and their values",
        ]
        order = [int(c) for c in np.argsort(-self.pixels, kind="stable") if self.pixels[c]]
        width = max((len(self.space.names[c]) for c in order), default=0)
        total = int(self.pixels.sum())
        for c in order:
            share = f"{self.pixels[c] / total:.1%}"
            lines.append(f"  {self.space.names[c]:<{width}}  {share:>6} of the pixels, in {self.images[c]} images")
        return "\n".join(lines)


def predict_paths(
    model: Model,
    paths: Sequence[str | Path],
    labels: Labels = "unified",
    out: str | Path = "predictions",
    *,
    kinds: Sequence[str] = ("masks", "overlays"),
    values: Mapping[str, PixelValues] = MappingProxyType({}),
    relate: Relate = "names",
    resume: bool = False,
    source: str = "",
) -> Summary:
    """Segment images and folders of images, and write files of the `kinds` (of `OUTPUTS`), and `labels.json`, to `out`.

    `labels` and `relate` are what `Model.predict` takes; `values` are the classes' values in files of a kind, by
    default their positions, or from 1 on where a format needs it. With `resume` an image whose files are all newer than
    itself is left as it is; `source` says what the model is, so that an earlier model's files are not taken for its.
    Where datasets share no unified node it is logged that "unified" says little.

    Raises UserError before anything is written if a path does not exist, a folder holds no image, an input would be
    overwritten, or `resume` does not fit what is there; and at the end if images could not be read, each of which was
    logged, the others being done.
    """
    start = time.monotonic()
    output, out = model.output(labels, relate), Path(out)
    writers = _writers(model, output, out, kinds, values)
    images = list_images([Path(p) for p in paths], out)
    jobs = [
        Job(path, name, [w.path(name) for w in writers]) for (path, _), name in zip(images, _names(images), strict=True)
    ]
    index = out / "labels.json"
    targets = [*(target for job in jobs for target in job.targets), *(out / n for w in writers for n in w.at_end)]
    atomic.check_target(index)
    _check_targets([job.path for job in jobs], [*targets, index])
    description = _description(output, writers[0].values, kinds, source, model)
    done = _done(jobs, writers, index, description) if resume else set()
    space, taxonomy = output.space, model.taxonomy
    if space == taxonomy.unified and len(taxonomy.spaces) > 1 and not taxonomy.shared:
        log.warning(UNSHARED, len(space), model.spaces[0].name)
    # The old description would be wrong for the first new file, and this one is right before it.
    atomic.write(index, description)
    work = Pipeline(model, output, writers)
    with progress("predicting", len(jobs)) as step:
        for _ in done:
            step()
        for _ in work.finished([job for job in jobs if job.name not in done]):
            step()
    if work.written:
        for writer, parts in zip(writers, zip(*work.written, strict=True), strict=True):
            writer.finish(parts)
    if work.failed:
        raise UserError(
            f"{len(work.failed)} of {len(images)} images could not be read, the first: {work.failed[0]}; the others "
            f"are in {out}"
        )
    seconds = time.monotonic() - start
    files = [job.targets[0] for job in jobs]
    return Summary(
        files, out, tuple(kinds), space, len(done), work.pixels, work.images, seconds, work.busy / seconds
    )  # fmt: skip


def _writers(
    model: Model, output: OutputSpace, out: Path, kinds: Sequence[str], values: Mapping[str, PixelValues]
) -> list[Output]:
    if unknown := [kind for kind in kinds if kind not in OUTPUTS]:
        raise UserError(f"'{unknown[0]}' is no kind of file that can be written; there are: {', '.join(OUTPUTS)}")
    if not kinds:
        raise UserError(f"nothing is to be written; choose one of: {', '.join(OUTPUTS)}")
    chosen = {kind: OUTPUTS[kind] for kind in kinds}
    if any(w.needs_segments for w in chosen.values()) and not model.method.finds_segments:
        raise UserError(f"{type(model.method).__name__} finds classes, not objects; leave --segments out")
    hierarchy = model.method.hierarchy
    if hierarchy is not None and output.space == hierarchy.space and any(w.needs_scores for w in chosen.values()):
        raise UserError("the classes of a hierarchy hold each other, and have no scores of one softmax; write masks")
    space = output.space
    return [
        kind(out, space, values.get(name) or PixelValues.positions(space, first=kind.values_from))
        for name, kind in chosen.items()
    ]


def _description(output: OutputSpace, values: PixelValues, kinds: Sequence[str], source: str, model: Model) -> str:
    """Describe the files: classes by value, and what they were made with, by which `resume` knows them."""
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


def _done(jobs: Sequence[Job], writers: Sequence[Output], index: Path, description: str) -> set[str]:
    """Return the names of the images whose files are there and newer; raises UserError if they are of other labels."""
    if late := [name for w in writers for name in w.at_end]:
        raise UserError(f"{late[0]} is written once, of all images; leave --resume out, or that kind of file")
    if not index.exists():
        return set()
    try:
        same = index.read_text(encoding="utf-8") == description
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{index}: cannot be read ({e}); leave --resume out, or choose another --out") from None
    if not same:
        raise UserError(
            f"{index}: of another model, other labels or other kinds of files; leave --resume out to write all again, "
            "or choose another --out"
        )
    return {job.name for job in jobs if _newer(job)}


def _newer(job: Job) -> bool:
    """Say whether all files of an image are there and not older than it."""
    try:
        read = os.stat(job.path).st_mtime_ns
        return all(os.stat(target).st_mtime_ns >= read for target in job.targets)
    except FileNotFoundError:
        return False


def list_images(paths: Iterable[Path], out: Path | None = None) -> list[tuple[Path, Path]]:
    """List (file, name) of images and folders, sorted within folders; what was written to `out` before is no input.

    Names are relative to the folder given, or begin with its own name where several paths are given.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    paths = list(paths)
    for path in paths:
        if path.is_file():
            found.setdefault(path.resolve(), (path, Path(path.name)))
            continue
        if not path.is_dir():
            raise UserError(f"{path}: there is no such image or folder; check the path")
        inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
        inside = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        written = () if out is None else [out.resolve() / name for name in PICTURES]
        inside = [p for p in inside if not any(p.resolve().is_relative_to(folder) for folder in written)]
        if not inside:
            raise UserError(f"{path}: no image in this folder ({', '.join(sorted(SUFFIXES))}); check the path")
        for p in inside:
            found.setdefault(p.resolve(), (p, p.relative_to(path.parent if len(paths) > 1 else path)))
    if not found:
        raise UserError("no image was given; name images or folders")
    return list(found.values())


def _names(images: Sequence[tuple[Path, Path]]) -> list[str]:
    """Name the outputs: the relative path without suffix, with suffix or a number where that is taken.

    Names differ by more than case, for file systems that do not tell cases apart.
    """
    taken: set[str] = set()
    names = []
    for _, relative in images:
        stem, suffix = relative.with_suffix("").as_posix(), relative.suffix.lower().replace(".", "-")
        candidates = chain((stem, stem + suffix), (f"{stem}{suffix}-{n}" for n in count(2)))
        names.append(next(c for c in candidates if c.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names


def _check_targets(inputs: Iterable[Path], targets: Iterable[Path]) -> None:
    """Raise UserError if a file to be written is one to be read, under whatever name."""
    known = {(s.st_dev, s.st_ino) for s in map(os.stat, inputs)}
    for target in targets:
        if target.exists() and (target.stat().st_dev, target.stat().st_ino) in known:
            raise UserError(f"{target} is an input and would be overwritten; write to another folder with --out")
