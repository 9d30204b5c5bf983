"""What a finished run leaves beside its weights: scores, confusions, samples, the report."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console

from manyseg import atomic
from manyseg.data.folder import Folder
from manyseg.evaluation.scores import Scores
from manyseg.inference.options import TestOptions
from manyseg.methods.base import Method
from manyseg.progress import progress
from manyseg.report.change import changes, class_ious, to_markdown
from manyseg.report.page import write_report
from manyseg.report.record import read_record
from manyseg.report.samples import predict_samples, samples_each, write_samples
from manyseg.runs.folder import RunFolder
from manyseg.runs.hub import hub_address

__all__ = ["write_results"]

console = Console(soft_wrap=True, highlight=False, markup=False)


def write_results(
    folder: RunFolder, method: Method, datasets: Sequence[Folder], options: TestOptions, scores: Scores
) -> None:
    """Write the scores of the `datasets`, a few pictures of each and the report, and say where they are."""
    counts = {name: d.confusion.matrix for name, d in scores.datasets.items()}
    with folder.replacing("scores.json", "confusion.npz", "samples/*", "report.html"):
        scores.write(folder.path / "scores.json")
        atomic.write_arrays(folder.path / "confusion.npz", counts)
        with progress("writing the report", len(datasets) + 1) as done:
            unified = method.taxonomy.painted(method.taxonomy.unified)
            for dataset in datasets:
                skipped = scores.datasets[dataset.space.name].skipped
                shown = predict_samples(method, dataset, options, skipped, samples_each(len(datasets)))
                write_samples(folder.path, method.taxonomy.painted(dataset.space), unified, shown)
                done()
            write_report(folder.path)
            done()
    console.print(scores.to_markdown(classes=False))
    record = read_record(folder.path)
    if found := changes(class_ious(record.before), class_ious(record.scores)):
        start = str(record.recipe.get("start"))
        start = start if hub_address(start) else os.path.normpath(folder.path / start)
        console.print(f"Before (the scores of {start}) and after, IoU in per cent:\n")
        console.print(to_markdown(found))
    for path, what in (
        (folder.report, "the report of this run"),
        (folder.path / "scores.json", "the scores of every class"),
        (folder.taxonomy, "the unified label space"),
        (folder.best, "the weights that have these scores"),
    ):
        console.print(f"{path}: {what}")
