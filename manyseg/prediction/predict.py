"""Images and folders to files, in any of a model's label spaces: label maps, overlays and what else is asked for.

Images are read and files are written in threads while the network works, which sees images of one size together. The
EXIF orientation of photos is respected, and folders keep their tree.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from types import MappingProxyType

from manyseg import atomic
from manyseg.errors import Interrupted, UserError
from manyseg.inference.encoded_images import OutputSpace
from manyseg.prediction.drawing import PixelValues
from manyseg.prediction.large_images import is_large, large_target
from manyseg.prediction.map_files import Confidence, GeoJSON, Masks, Overlays, ScoreArrays
from manyseg.prediction.model import Labels, Model, Relate
from manyseg.prediction.output import Output
from manyseg.prediction.photo import PLAIN, Reading
from manyseg.prediction.pipeline import Job, Pipeline
from manyseg.prediction.segment_files import Coco, CocoPanoptic, InstanceIds
from manyseg.prediction.submission import Submission
from manyseg.prediction.summary import Summary, describe
from manyseg.progress import progress

__all__ = ["OUTPUTS", "check_targets", "list_images", "predict_paths", "unique_names"]

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""The suffixes of images in a folder; a file that is given by its path may have any."""

OUTPUTS: Mapping[str, type[Output]] = {
    "masks": Masks,
    "overlays": Overlays,
    "confidence": Confidence,
    "scores": ScoreArrays,
    "geojson": GeoJSON,
    "submission": Submission,
    "coco": Coco,
    "coco_panoptic": CocoPanoptic,
    "instance_ids": InstanceIds,
}
"""The kinds of files by the names that the command line uses."""

PICTURES = ("masks", "overlays", "confidence", "panoptic", "instances", "results", "submission")
"""The folders of `out` in which these kinds leave pictures, which are no images to segment."""

UNSHARED = (
    "datasets share no unified node: the %d nodes are the classes of all datasets side by side, and a picture mixes "
    "their names. Predict in the labels of one dataset (--labels %s), or relate the datasets (`manyseg labels RUN -o "
    "labels.tsv`) and train with the table (method.name=manual, method.taxonomy=labels.tsv)"
)

log = logging.getLogger(__name__)


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
    reading: Reading = PLAIN,
    source: str = "",
) -> Summary:
    """Segment images and folders of images, and write files of the `kinds` (of `OUTPUTS`), and `labels.json`, to `out`.

    `labels` and `relate` are what `Model.predict` takes; `values` are the classes' values in files of a kind, by
    default their positions, or from 1 on where a format needs it. With `resume` an image whose files are all newer than
    itself is left as it is; `source` says what the model is, so that an earlier model's files are not taken for its.
    Where datasets share no unified node it is logged that "unified" says little.

    A signal that `StopSignals` takes ends the work with Interrupted, which says how many images are done.
    Raises UserError before anything is written if a path does not exist, a folder holds no image, an input would be
    overwritten, or `resume` does not fit what is there; and at the end if images could not be read, each of which was
    logged, the others being done.
    """
    start = time.monotonic()
    output, out = model.output(labels, relate), Path(out)
    writers = _writers(model, output, out, kinds, values)
    images = list_images([Path(p) for p in paths], out)
    named = zip(images, unique_names(images), strict=True)
    large = {path for path, _ in images if is_large(path)}
    jobs = []
    for (path, _), name in named:
        files = [large_target(out, kind, name) for kind in kinds] if path in large else [w.path(name) for w in writers]
        jobs.append(Job(path, name, files))
    for writer in writers:
        writer.begin([job.name for job in jobs])
    index = out / "labels.json"
    targets = [*(target for job in jobs for target in job.targets), *(out / n for w in writers for n in w.at_end)]
    atomic.check_target(index)
    check_targets([job.path for job in jobs], [*targets, index])
    description = describe(output, writers[0].values, kinds, source, model)
    done = _done(jobs, writers, index, description) if resume else set()
    space, taxonomy = output.space, model.taxonomy
    if space == taxonomy.unified and len(taxonomy.spaces) > 1 and not taxonomy.shared:
        log.warning(UNSHARED, len(space), model.spaces[0].name)
    # The old description would be wrong for the first new file, and this one is right before it.
    atomic.write(index, description)
    work = Pipeline(model, output, writers, reading)
    ended = len(done)
    try:
        with progress("predicting", len(jobs)) as step:
            for _ in done:
                step()
            left = [job for job in jobs if job.name not in done]
            for _ in work.finished([job for job in left if job.path not in large]):
                ended += 1
                step()
            for job in left:
                if job.path in large:
                    work.add_large(job, kinds)
                    ended += 1
                    step()
    except Interrupted as e:
        late = [name for writer in writers for name in writer.at_end]
        rest = f"{late[0]} is written at the end, and is not" if late else "--resume goes on with the others"
        raise Interrupted(e.signal, f"{e}: {ended} of {len(jobs)} images are done, in {out}; {rest}") from None
    if written := [work.written[job.name] for job in jobs if job.name in work.written]:
        for writer, parts in zip(writers, zip(*written, strict=True), strict=True):
            writer.finish(parts)
    if work.failed:
        rest = f"the others are in {out}" if len(work.failed) < len(images) else "nothing was predicted"
        raise UserError(
            f"{len(work.failed)} of {len(images)} images could not be read, the first: {work.failed[0]}; {rest}"
        )
    for writer in writers:
        writer.verify([(job.name, job.path) for job in jobs])
    seconds = time.monotonic() - start
    files = [job.targets[0] for job in jobs]
    return Summary(
        files, out, tuple(kinds), "images", space, len(jobs) - len(done), len(done), work.pixels, work.images, seconds,
        work.busy / seconds,
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


def unique_names(images: Sequence[tuple[Path, Path]]) -> list[str]:
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


def check_targets(inputs: Iterable[Path], targets: Iterable[Path]) -> None:
    """Raise UserError if a file to be written is one to be read, under whatever name."""
    known = {(s.st_dev, s.st_ino) for s in map(os.stat, inputs)}
    for target in targets:
        if target.exists() and (target.stat().st_dev, target.stat().st_ino) in known:
            raise UserError(f"{target} is an input and would be overwritten; write to another folder with --out")
