"""Images and folders to label maps: an index PNG and an overlay for each, in any of a model's label spaces.

Under the output folder: `masks/<name>.png` (values are positions in `labels.json`, at the image's own size) and
`overlays/<name>.jpg`; folders keep their tree. The EXIF orientation of photos is respected.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path

from manyseg import atomic
from manyseg.data.files import DataError, write_image
from manyseg.errors import UserError
from manyseg.labels import LabelSpace
from manyseg.prediction.model import Model
from manyseg.prediction.panoptic_files import FORMATS
from manyseg.progress import progress

__all__ = ["list_images", "predict_paths"]

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""The suffixes of images in a folder; a file that is given by its path may have any."""

UNSHARED = (
    "datasets share no unified node: the %d nodes are the classes of all datasets side by side, and a picture mixes "
    "their names. Predict in the labels of one dataset (--labels %s), or relate the datasets (`manyseg labels RUN -o "
    "labels.tsv`) and train with the table (method.name=manual, method.taxonomy=labels.tsv)"
)

log = logging.getLogger(__name__)


def predict_paths(
    model: Model,
    paths: Sequence[str | Path],
    labels: str = "unified",
    out: str | Path = "predictions",
    segments: str | None = None,
    values: Sequence[int] | None = None,
) -> list[Path]:
    """Segment images and folders of images; return the masks that were written.

    `labels` is what `Model.predict` takes. `segments` also writes things and stuff in one of `panoptic_files.FORMATS`,
    with `values` for the classes. Where datasets share no unified node it is logged that "unified" says little. Raises
    UserError before anything is written if a path does not exist, a folder holds no image, or an input would be
    overwritten; and at the end if images could not be read, each of which was logged, the others being done.
    """
    space, out = model.space(labels), Path(out)
    images = list_images([Path(p) for p in paths], out)
    names = _names(images)
    targets = [out / "masks" / f"{name}.png" for name in names]
    pictures = [out / "overlays" / f"{name}.jpg" for name in names]
    atomic.check_target(out / "labels.json")
    _check_targets([path for path, _ in images], [*targets, *pictures, out / "labels.json"])
    writer = FORMATS[segments](out, space, values) if segments else None
    if writer and not model.method.finds_segments:
        raise UserError(f"{type(model.method).__name__} finds classes, not objects; leave --segments out")
    taxonomy = model.taxonomy
    if space is taxonomy.unified and len(taxonomy.spaces) > 1 and not taxonomy.shared:
        log.warning(UNSHARED, len(space), model.spaces[0].name)
    failed: list[DataError] = []
    with progress("predicting", len(images)) as done:
        for (path, _), name, target, picture in zip(images, names, targets, pictures, strict=True):
            try:
                found = model.predict(path, space, segments=writer is not None)
            except DataError as error:
                log.warning("%s", error)
                failed.append(error)
                continue
            if writer and found.segments:
                writer.add(name, found.segments)
            found.save(target)
            write_image(picture, found.overlay(), quality=90)
            done()
    if len(failed) < len(images):
        _write_labels(out / "labels.json", space)
        if writer:
            writer.finish()
    if failed:
        raise UserError(
            f"{len(failed)} of {len(images)} images could not be read, the first: {failed[0]}; the others are in {out}"
        )
    return targets


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
        written = () if out is None else (out.resolve() / "masks", out.resolve() / "overlays")
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


def _write_labels(path: Path, space: LabelSpace) -> None:
    rows = [
        {"value": i, "name": name, "color": "#" + bytes(space.colors[i].tolist()).hex()}
        for i, name in enumerate(space.names)
    ]
    text = json.dumps({"space": space.name, "classes": rows}, indent=2, ensure_ascii=False)
    atomic.write(path, text + "\n")
