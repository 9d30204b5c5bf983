"""Evaluation of a method on datasets under a protocol, and statistics of its predictions.

Images of equal size form a batch, which is read and encoded once. Threads read files in advance, pixels are counted on
the device, and the counts of all ranks are added up once, so that every rank has the same result.

Axes: B images, D classes of a dataset, U unified nodes, h w feature resolution, H W native size.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from manyseg.data.annotation import Segments
from manyseg.data.folder import Folder
from manyseg.errors import UserError
from manyseg.evaluation.confusion import Confusion, add_pairs, count_pairs
from manyseg.evaluation.dataset_pass import LabelledBatch, all_reduce, image_hashes, large_size, visit_batches
from manyseg.evaluation.knowledge import Knowledge
from manyseg.evaluation.panoptic_quality import Panoptic, count_segments
from manyseg.evaluation.scores import DatasetScores, Protocol, Scores
from manyseg.inference.encoded_images import OutputSpace
from manyseg.inference.label_maps import class_sums
from manyseg.inference.options import TestOptions
from manyseg.labels import IGNORE, LabelSpace, Relation
from manyseg.methods.base import Method
from manyseg.models import Features
from manyseg.relate.assignment import map_by_iou
from manyseg.relate.statistics import UNIFIED, Statistics
from manyseg.relate.text_evidence import Encode
from manyseg.relate.unseen import relate_by_names, relate_by_text, unmapped

__all__ = [
    "Activation",
    "check_disjoint",
    "collect",
    "evaluate",
    "score_mapped",
    "score_related",
    "score_seen",
    "score_words",
    "statistics_key",
]

log = logging.getLogger(__name__)

Activation = Callable[[Features], Float[Tensor, "B U h w"]]
"""A function from features to a value of every unified node at feature resolution."""

# Protocols.


def evaluate(
    method: Method,
    folders: Sequence[Folder],
    *,
    relate: Protocol = "names",
    encode: Encode | None = None,
    fit: Mapping[str, Folder] | None = None,
    options: TestOptions | None = None,
    skip_bad: bool = False,
    known: Mapping[str, DatasetScores] = MappingProxyType({}),
) -> Scores:
    """Score a method on datasets, each under one protocol: "seen" if it was trained on, else `relate`.

    "text" needs `encode`, a function from texts to unit vectors, except for a method that `reads_words`. "labels" needs
    in `fit`, by dataset, a folder of other labelled images, on which the map is fitted. With `skip_bad` images whose
    files are at fault are left out, and named in the scores. `known` are the scores of datasets that are not scored
    again. Raises UserError where something is missing, or a dataset is given twice, and DataError for a file at fault.
    """
    out: dict[str, DatasetScores] = {}
    for folder in folders:
        name = folder.space.name
        if name in out:
            raise UserError(f"dataset '{name}' is to be evaluated twice; evaluate one split and protocol at a time")
        if name in known:
            out[name] = known[name]
        elif relate == "seen" or _trained_on(method, folder.space):
            out[name] = score_seen(method, folder, options, skip_bad)
        elif relate == "labels":
            if fit is None or name not in fit:
                raise UserError(
                    f"no labelled images to fit the map of '{name}'; give another split of it, or use names"
                )
            out[name] = score_mapped(method, folder, fit[name], options, skip_bad)
        elif relate == "names":
            relation = relate_by_names(folder.space, method.taxonomy)
            out[name] = score_related(method, folder, relation, relate, options, skip_bad)
        elif method.reads_words:
            out[name] = score_words(method, folder, options, skip_bad)
        else:
            if encode is None:
                raise UserError(f"relating '{name}' by text needs a text encoder; give one, or use names")
            relation = relate_by_text(folder.space, method.taxonomy, encode)
            out[name] = score_related(method, folder, relation, relate, options, skip_bad)
    seen = {name: d.confusion.iou.tolist() for name, d in out.items() if d.protocol == "seen"}
    return Scores(len(method.taxonomy.unified), out, Knowledge.of(method.taxonomy, seen) if seen else None)


def score_seen(
    method: Method, folder: Folder, options: TestOptions | None = None, skip_bad: bool = False
) -> DatasetScores:
    """Score a training dataset in its own labels."""
    space = _trained_on(method, folder.space)
    if space is None:
        raise UserError(
            f"'{folder.space.name}' is no training dataset of this model; relate it by names, text or labels"
        )
    return _score_directly(method, folder, space, "seen", options, skip_bad)


def score_words(
    method: Method, folder: Folder, options: TestOptions | None = None, skip_bad: bool = False
) -> DatasetScores:
    """Score an unseen dataset by a method that reads words, which predicts in the names of the dataset's classes."""
    return _score_directly(method, folder, folder.space, "text", options, skip_bad)


def _score_directly(
    method: Method, folder: Folder, space: LabelSpace, protocol: Protocol, options: TestOptions | None, skip_bad: bool
) -> DatasetScores:
    """Score label maps in a space that the method predicts without a relation, and segments where both have them.

    Segments are predicted without windows, flips and scales; where an image is only seen by windows there are none.
    """
    counts = torch.zeros(len(space), 4, dtype=torch.float64)
    panoptic = method.finds_segments and folder.annotation == "segments" and not _any_large(folder)

    def label_map(batch: LabelledBatch) -> Int[Tensor, "B H W"]:
        if panoptic:
            for truth, found in zip(batch.annotations, batch.whole("segments").segments(space), strict=True):
                assert isinstance(truth, Segments)
                counts.add_(torch.from_numpy(count_segments(truth.ids, truth.classes, found, len(space))))
        return batch.maps[0]

    confusion, skipped = _confusion(method, folder, OutputSpace(space), options, skip_bad, label_map)
    if not panoptic:
        return DatasetScores(protocol, confusion, skipped=skipped)
    total = counts.to(method.device)
    all_reduce([total])
    return DatasetScores(protocol, confusion, panoptic=Panoptic(space, total.cpu().numpy()), skipped=skipped)


def score_related(
    method: Method,
    folder: Folder,
    relation: Relation,
    protocol: Protocol,
    options: TestOptions | None = None,
    skip_bad: bool = False,
) -> DatasetScores:
    """Score an unseen dataset through a relation; the argmax is among the classes that have a node.

    Where no class has a node nothing is predicted, and every class that occurs has IoU 0.
    """
    output = OutputSpace(folder.space, relation)
    found = _confusion(method, folder, output, options, skip_bad)
    confusion, skipped = found
    return DatasetScores(protocol, confusion, unmapped(folder.space, relation), skipped=skipped)


def score_mapped(
    method: Method, folder: Folder, fit: Folder, options: TestOptions | None = None, skip_bad: bool = False
) -> DatasetScores:
    """Score an unseen dataset through a map of unified nodes to classes fitted on the labels of `fit`.

    AutoUniSeg's protocol: least cost, 1 - IoU on `fit`; the prediction is the class of the best node. Not zero-shot.
    Raises UserError if an image of `fit` would be scored.
    """
    if fit.space != folder.space:
        raise UserError(
            f"the map of '{folder.space.name}' cannot be fitted on '{fit.space.name}'; give a split of one card"
        )
    check_disjoint(fit, folder)
    unified = method.taxonomy.unified
    statistics = collect(method, [fit], options, heads=[unified], skip_bad=skip_bad)
    relation = map_by_iou(statistics.counts[fit.space.name, UNIFIED])
    class_of = torch.from_numpy(relation.argmax(0)).to(method.device)
    output = OutputSpace(unified)
    found = _confusion(method, folder, output, options, skip_bad, lambda batch: class_of[batch.maps[0]])
    confusion, skipped = found
    return DatasetScores("labels", confusion, unmapped(folder.space, relation), skipped=skipped)


def check_disjoint(fit: Folder, score: Folder) -> None:
    """Raise UserError if the two folders share an image: a map must not be scored on images that it is fitted on."""
    if shared := len(np.intersect1d(image_hashes(fit), image_hashes(score))):
        raise UserError(
            f"{shared} of {len(score)} images of '{score.space.name}' to be scored would also fit its map; "
            f"score another split than '{fit.split}'"
        )


def _trained_on(method: Method, space: LabelSpace) -> LabelSpace | None:
    """Return the method's own space of that name; raises UserError if its classes are others."""
    for known in method.spaces:
        if known.name == space.name:
            if known.names != space.names:
                raise UserError(
                    f"the card of '{space.name}' has {len(space)} classes that are not the {len(known)} that the "
                    "model was trained on; use the card of the run, or rename the card to evaluate it as unseen"
                )
            return known
    return None


# Statistics.


def collect(
    method: Method,
    folders: Sequence[Folder],
    options: TestOptions | None = None,
    *,
    heads: Sequence[LabelSpace] | None = None,
    activation: Activation | None = None,
    skip_bad: bool = False,
) -> Statistics:
    """Count the predictions of every head on the pixels of every dataset, and sum up activations, in one pass.

    `heads` are the label spaces to predict in; by default all training datasets' and the unified one. `activation`
    gives the values that are summed up by true class, such as cosines with the unified nodes; they are computed from
    the whole image, and interpolated bilinearly at native size. With `skip_bad` images whose files are at fault are
    left out.
    """
    heads = (*method.spaces, method.taxonomy.unified) if heads is None else heads
    totals: dict[tuple[str, ...], Tensor] = {}
    for folder in folders:
        totals |= _count_predictions(method, folder, options, heads, activation, skip_bad)
    all_reduce(totals.values())
    arrays = {key: total.cpu().numpy() for key, total in totals.items()}
    return Statistics(
        statistics_key(method, heads, options),
        {(key[1], key[2]): a for key, a in arrays.items() if key[0] == "counts"},
        {key[1]: a for key, a in arrays.items() if key[0] == "pixels"},
        {key[1]: a for key, a in arrays.items() if key[0] == "sums"},
        {(key[1], key[2]): a for key, a in arrays.items() if key[0] == "unlabelled"},
        {folder.space.name: image_hashes(folder) for folder in folders},
    )


def _count_predictions(
    method: Method,
    folder: Folder,
    options: TestOptions | None,
    heads: Sequence[LabelSpace],
    activation: Activation | None,
    skip_bad: bool,
) -> dict[tuple[str, ...], Tensor]:
    """Return the counts, pixels and sums of one dataset over this rank's images, on the device."""
    name, classes, unified, device = folder.space.name, len(folder.space), method.taxonomy.unified, method.device
    outputs = [OutputSpace(head) for head in heads]
    # The first row counts the pixels without a label.
    counts = [torch.zeros(1 + classes, len(head), dtype=torch.int64, device=device) for head in heads]
    pixels = torch.zeros(classes, dtype=torch.int64, device=device)
    sums = torch.zeros(classes, len(unified), dtype=torch.float64, device=device)

    def visit(batch: LabelledBatch) -> None:
        truth = batch.labels
        for total, found, head in zip(counts, batch.maps, heads, strict=True):
            total += count_pairs(truth - IGNORE, found, 1 + classes, len(head))[:, :-1]
        pixels.add_(count_pairs(truth, truth, classes, classes).sum(1))
        if activation is not None:
            features = batch.whole("what this method measures of its nodes").features
            sums.add_(class_sums(activation(features), truth, classes))

    visit_batches(method, folder, outputs, options, visit, skip_bad, "statistics of")
    names = [UNIFIED if head == unified else head.name for head in heads]
    out: dict[tuple[str, ...], Tensor] = {("pixels", name): pixels}
    out |= {("counts", name, head): total[1:] for head, total in zip(names, counts, strict=True)}
    out |= {("unlabelled", name, head): total[0] for head, total in zip(names, counts, strict=True)}
    return out if activation is None else out | {("sums", name): sums}


def _any_large(folder: Folder) -> bool:
    """Say whether images are so large that they are only seen by windows; then a warning says what that costs."""
    if large_size(folder) is None:
        return False
    log.warning("'%s': images are seen by windows, so that segments are not scored", folder.space.name)
    return True


def _confusion(
    method: Method,
    folder: Folder,
    output: OutputSpace,
    options: TestOptions | None,
    skip_bad: bool,
    label_map: Callable[[LabelledBatch], Int[Tensor, "B H W"]] = lambda batch: batch.maps[0],
) -> tuple[Confusion, tuple[str, ...]]:
    """Count the pixels of a folder by true and found class; return the ids of skipped images too.

    `label_map` returns the classes of a batch, by default those predicted in `output`.
    """
    classes = len(folder.space)
    counts = torch.zeros(classes, classes + 1, dtype=torch.int64, device=method.device)

    def visit(batch: LabelledBatch) -> None:
        add_pairs(counts, batch.labels, label_map(batch))

    skipped = visit_batches(method, folder, [output], options, visit, skip_bad)
    all_reduce([counts])
    return Confusion(folder.space, counts.cpu().numpy()), skipped


def statistics_key(method: Method, heads: Sequence[LabelSpace], options: TestOptions | None = None) -> str:
    """Hash what statistics depend on: weights, taxonomy, heads and options; the images' hashes are kept beside it."""
    out = hashlib.sha256()
    for name, tensor in sorted(method.state_dict().items()):
        if hasattr(tensor, "full_tensor"):  # It is divided among processes, which all call this.
            tensor = tensor.full_tensor()
        raw = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        out.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        out.update(memoryview(raw.numpy()))
    out.update(method.taxonomy.to_tsv().encode())
    out.update(repr([(head.name, head.names) for head in heads]).encode())
    out.update((options or TestOptions()).model_dump_json().encode())
    return out.hexdigest()
