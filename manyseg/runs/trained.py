"""What is done with a trained run: scores, tables, predictions and files of its best weights.

Each function loads what it needs, as in `manyseg.runs.run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from manyseg.config import listed
from manyseg.data.card import Card, builtin_cards, read_card
from manyseg.data.folder import Folder
from manyseg.errors import UserError
from manyseg.runs.run import Run, load

if TYPE_CHECKING:
    from manyseg.evaluation.cross_table import CrossTable
    from manyseg.evaluation.gradient_conflict import Conflict
    from manyseg.evaluation.scores import Protocol, Scores
    from manyseg.export.files import Precision
    from manyseg.export.graph import Output
    from manyseg.prediction.model import Relate
    from manyseg.prediction.summary import Summary

__all__ = ["conflicts_run", "cross_run", "evaluate_run", "export_run", "predict_run"]


def evaluate_run(
    folder: str | Path, data: Sequence[str] = (), *, relate: Protocol = "names", overrides: Sequence[str] = ()
) -> Scores:
    """Score a run's best weights on its recipe's datasets, or on those of `data`, each `CARD=ROOT[:SPLIT]`.

    The split defaults to `val`. With `relate = "labels"` the map of an unseen dataset is fitted on its split `train`.
    """
    from manyseg.evaluation.evaluate import evaluate
    from manyseg.models.text import TextEncoder

    run = Run.open(folder, overrides)
    folders = _scored(run, data)
    fit, encode = {}, None
    trained = {s.name for s in run.spaces}
    if relate == "labels":
        fit = {f.space.name: _fitting(f) for f in folders if f.space.name not in trained}
    method = run.load_model()
    if relate == "text" and not method.reads_words:
        encode = TextEncoder().encode
    test, skip_bad = run.recipe.test, run.recipe.data.skip_bad
    return evaluate(method, folders, relate=relate, encode=encode, fit=fit, options=test, skip_bad=skip_bad)


def cross_run(folder: str | Path, data: Sequence[str] = (), *, overrides: Sequence[str] = ()) -> CrossTable:
    """Score every head of a run, and its unified nodes, on every dataset through maps fitted on their split `train`.

    `data` is as in `evaluate_run`. The table of AutoUniSeg's Table 3; see `manyseg.evaluation.cross_table`.
    """
    from manyseg.evaluation.cross_table import cross_table
    from manyseg.evaluation.evaluate import collect

    run = Run.open(folder, overrides)
    folders, method = _scored(run, data), run.load_model()
    fit, score = (
        collect(method, datasets, run.recipe.test, skip_bad=run.recipe.data.skip_bad)
        for datasets in ([_fitting(f) for f in folders], folders)
    )
    return cross_table({f.space.name: f.space for f in folders}, fit, score)


def conflicts_run(folder: str | Path, *, steps: int = 50) -> list[Conflict]:
    """Measure on a run's best weights, over its first `steps` training steps, how its datasets' gradients oppose."""
    from manyseg.data.mixture import Mixture
    from manyseg.evaluation.gradient_conflict import measure_conflicts

    run = Run.open(folder)
    mixture = Mixture.open(run.recipe.data, run.recipe.base, seed=run.recipe.seed)
    return measure_conflicts(run.load_model(), (mixture[step] for step in range(steps)))


def predict_run(
    folder: str | Path,
    paths: Sequence[str | Path],
    *,
    labels: str = "unified",
    out: str | Path = "predictions",
    overrides: Sequence[str] = (),
    kinds: Sequence[str] = ("masks", "overlays"),
    values: Literal["positions", "card"] | None = None,
    relate: str = "names",
    resume: bool = False,
    bands: tuple[int, ...] | None = None,
    value_range: tuple[float, float] | None = None,
    sequence: float | None = None,
    smooth: float = 0.0,
) -> Summary:
    """Segment images and folders, or videos, with a run's best weights.

    See `manyseg.prediction.predict.predict_paths` and `manyseg.prediction.video.predict_videos`.
    `labels` may be a card. `values` are the classes' positions or those of the card; by default files of areas (COCO,
    instance ids) have the card's where they are known. `relate` is "names", "text" or the path of a table.
    `bands` (red, green and blue, counted from 1) and `value_range` (black and white) say how images are read, by
    default as the card says.
    """
    from manyseg.prediction.drawing import PixelValues
    from manyseg.prediction.photo import PLAIN, Reading
    from manyseg.prediction.predict import OUTPUTS, predict_paths
    from manyseg.prediction.video import predict_videos
    from manyseg.prediction.video_source import is_video
    from manyseg.training import checkpoint

    run = Run.open(folder, overrides)
    card = _card(run, labels)
    of_card = None if card is None else PixelValues.of(card)
    if values == "card" and of_card is None:
        raise UserError(f"'{labels}' has no card here that gives its classes numbers; leave --values card out")
    if of_card is None and any(OUTPUTS[kind].needs_card for kind in kinds if kind in OUTPUTS):
        raise UserError(f"'{labels}' has no card here, whose values a submission has; give --labels a dataset or card")
    videos = any(is_video(path, sequence) for path in paths)
    if not videos and (smooth or sequence is not None):
        raise UserError(f"--smooth and --sequence are for videos, and {paths[0]} is none; leave them out")
    if videos and resume:
        raise UserError("a video is written as a whole; leave --resume out")
    by_card = [
        kind
        for kind in kinds
        if values == "card" or OUTPUTS[kind].needs_card or (values is None and OUTPUTS[kind].values_from == 1)
    ]
    known = PLAIN if card is None else Reading(card.bands, card.range)
    reading = Reading(bands or known.bands, value_range or known.value_range)
    used = {} if of_card is None else dict.fromkeys(by_card, of_card)
    related: Relate = "names" if relate == "names" else "text" if relate == "text" else Path(relate)
    source = checkpoint.fingerprint(run.folder / "best")
    if videos:
        return predict_videos(
            run.load_for_images(), paths, labels, out, kinds=kinds, values=used, relate=related, sequence=sequence,
            smooth=smooth, source=source,
        )  # fmt: skip
    return predict_paths(
        run.load_for_images(), paths, labels, out, kinds=kinds, values=used, relate=related, resume=resume,
        reading=reading, source=source,
    )  # fmt: skip


def export_run(
    folder: str | Path,
    path: str | Path,
    *,
    labels: Sequence[str] = (),
    output: Output = "label_map",
    precision: Precision = "fp32",
    words: bool = False,
    images: Sequence[str | Path] = (),
) -> Path:
    """Write a run's best weights as one file, and print how it compares with the network; see `Model.export`.

    `images` are files or folders of images.
    """
    from manyseg.export.files import check_request
    from manyseg.prediction.predict import list_images

    check_request(Path(path), precision, images)
    files = [file for file, _ in list_images([Path(p) for p in images])] if images else []
    agreed = load(folder, device="cpu").export(
        path, labels=labels, output=output, precision=precision, words=words, images=files
    )
    print(f"wrote {path} ({Path(path).stat().st_size / 1e6:.1f} MB)")
    for name, share in agreed.items():
        print(f"{name}: {share:.2%} of the pixels of {len(files)} images have the network's class")
    return Path(path)


def _card(run: Run, labels: str) -> Card | None:
    """Return the card that `labels` is, or that of the training dataset of this name where it can still be read."""
    if labels.endswith(".toml"):
        return read_card(labels)
    for entry, space in zip(run.recipe.data.sets, run.spaces, strict=True):
        if space.name == labels:
            try:
                return entry.read_card(run.recipe.base)
            except UserError:
                return None
    return read_card(labels) if labels in builtin_cards() else None


def _scored(run: Run, data: Sequence[str]) -> list[Folder]:
    if data:
        return [_folder(text) for text in listed(data)]
    return [s.open_eval(run.recipe.base) for s in (*run.recipe.data.sets, *run.recipe.data.unseen)]


def _fitting(folder: Folder) -> Folder:
    """Return the split that maps are fitted on; it must not be the one that is scored."""
    return Folder(folder.card, folder.root, "train")


def _folder(text: str) -> Folder:
    card, equals, place = text.partition("=")
    if not equals or not card or not place:
        raise UserError(f"--data {text}: not of the form CARD=ROOT or CARD=ROOT:SPLIT")
    root, colon, split = place.rpartition(":")
    # A colon may be the path's own: a split has no slash, and a folder of the full name wins.
    if not colon or "/" in split or "\\" in split or Path(place).is_dir():
        root, split = place, "val"
    return Folder(read_card(card), root, split)
