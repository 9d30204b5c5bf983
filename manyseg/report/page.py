"""The report of one run, as a single HTML file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from manyseg import atomic
from manyseg.report.change import Change, changes, class_ious, other_labels
from manyseg.report.charts import Series, heat_map, line_chart
from manyseg.report.record import Record, read_record
from manyseg.report.samples import PARTS, read_samples
from manyseg.templates import render

__all__ = ["write_report"]

PROTOCOLS = {
    "seen": "seen in training",
    "names": "unseen, related by names",
    "text": "unseen, related by text",
    "labels": "unseen, map fitted on labels of another split",
}
"""The protocols in words; scores of different protocols are never averaged together."""

CONFUSIONS = 12
"""The number of the largest confusions that are listed of each dataset."""

WEAKEST = 10
"""The number of classes of least IoU that are listed first."""


def write_report(run_folder: str | Path) -> Path:
    """Write `report.html` of a run from the files in its folder and return its path.

    The page refers to no other file, and lists what is missing in the folder. Raises UserError if the folder is no run.
    """
    record = read_record(run_folder)
    mean, source = record.mean
    datasets = [_dataset(record, name, entry) for name, entry in record.scores.get("datasets", {}).items()]
    text = render(
        "report.html",
        title=record.folder.resolve().name,
        record=record,
        mean=mean,
        source=source,
        facts=_facts(record),
        curves=_curves(record),
        running=_running(record),
        change=changes(class_ious(record.before), class_ious(record.scores)),
        together=_together(record),
        stages=record.stages,
        summary=_summary(record),
        weakest=_weakest(datasets),
        knowledge=_knowledge(record),
        datasets=datasets,
        taxonomy=_taxonomy(record.taxonomy),
        samples=read_samples(record.folder),
        parts=PARTS,
        recipe=record.recipe_text,
        environment=record.environment,
        notes=[*record.notes, *_skipped(record), *_other_labels(record)],
    )
    return atomic.write(record.folder / "report.html", text)


def _skipped(record: Record) -> list[str]:
    """Name the images that were left out of the scores."""
    found = {name: entry.get("skipped") or [] for name, entry in record.scores.get("datasets", {}).items()}
    return [
        f"{name}: {len(ids)} images are not scored, as their files cannot be read: {', '.join(map(str, ids))}"
        for name, ids in found.items()
        if ids
    ]


def _other_labels(record: Record) -> list[str]:
    """Name the datasets whose scores before this run are of other labels."""
    found = other_labels(record.before, record.scores) if record.before else []
    return [f"{name}: the scores before and after are of other images or labels" for name in found]


def _facts(record: Record) -> list[tuple[str, str]]:
    """Return the entries of the header: method, backbone, steps, nodes, time."""
    model = record.recipe.get("model", {})
    done = max((line["at"] for line in (*record.steps, *record.evals)), default=0)
    seconds = sum(_stage_seconds(record))
    facts = [
        ("method", record.method),
        ("backbone", str(model.get("backbone", "not named"))),
        ("steps", f"{done:,}".replace(",", "\u2009") if done else "none yet"),
        ("stages", " → ".join(name for name, *_ in record.stages) if len(record.stages) > 1 else ""),
        ("seed", str(record.recipe.get("seed", ""))),
        ("unified nodes", _nodes(record)),
        ("training time", f"{seconds / 60:.1f} min" if seconds else ""),
    ]
    return [(name, value) for name, value in facts if value]


def _nodes(record: Record) -> str:
    """Say how many unified nodes there are and, of several datasets, how many of these are shared."""
    table = _taxonomy(record.taxonomy)
    nodes = len(table["rows"]) or record.scores.get("unified_nodes")
    if not nodes or len(table["header"]) < 3:
        return str(nodes or "")
    return f"{nodes}, of which {table['shared']} {'is' if table['shared'] == 1 else 'are'} shared by datasets"


def _stage_seconds(record: Record) -> Iterable[float]:
    """Return the seconds of every stage; the log counts them anew in each stage, or over all of them."""
    clocks: dict[str, float] = {}
    for line in record.steps:
        stage = str(line.get("stage", ""))
        clocks[stage] = max(clocks.get(stage, 0.0), _float(line.get("seconds", 0.0)))
    total = list(clocks.values())
    # Where they are counted over all stages, the last value has them all.
    return total[-1:] if total == sorted(total) and len(total) > 1 else total


def _curves(record: Record) -> list[Markup]:
    """Draw total loss and losses per dataset, then mIoU per dataset and its mean."""
    losses: dict[str, list[tuple[float, float]]] = {"total": []}
    for line in record.steps:
        losses["total"].append((line["at"], _float(line["loss"])))
        sums: dict[str, float] = {}
        for name, value in (line.get("losses") or {}).items():
            # `<dataset>/<loss>`; a loss of all datasets has no slash, and is a line of its own.
            part = name.rpartition("/")[0] or name
            sums[part] = sums.get(part, 0.0) + _float(value)
        for name, value in sums.items():
            losses.setdefault(name, []).append((line["at"], value))
    scores: dict[str, list[tuple[float, float]]] = {"mean": []}
    for line in record.evals:
        scores["mean"].append((line["at"], _float(line.get("mean_miou"))))
        for name, entry in (line["eval"] or {}).items():
            scores.setdefault(name, []).append((line["at"], _float(entry.get("miou"))))
    return [
        line_chart("Loss", _series(losses)),
        line_chart("mIoU on the evaluation split, %", _series(scores), percent=True),
    ]


def _running(record: Record) -> list[Markup]:
    """Draw every single loss, the learning rate, images per second, and the time spent waiting for data."""
    single: dict[str, list[tuple[float, float]]] = {}
    for line in record.steps:
        for name, value in (line.get("losses") or {}).items():
            single.setdefault(name, []).append((line["at"], _float(value)))
    charts = [line_chart("Each loss by name", [Series(n, p) for n, p in single.items()])]
    for key, title, percent in (
        ("lr", "Learning rate", False),
        ("images_per_s", "Images per second", False),
        ("data_wait", "Share of time waiting for data, %", True),
    ):
        points = [(line["at"], _float(line[key])) for line in record.steps if key in line]
        charts.append(line_chart(title, [Series(key, points)], percent=percent))
    return [chart for chart in charts if chart]


def _series(points: dict[str, list[tuple[float, float]]]) -> list[Series]:
    """Return the lines of a chart; with a single dataset the line of the total or mean is left out."""
    first, *others = points
    names = others if len(others) == 1 and len(points[others[0]]) == len(points[first]) else points
    return [Series(name, points[name], bold=name == first) for name in names if points[name]]


def _summary(record: Record) -> list[dict[str, Any]]:
    """Return the datasets in groups, one for each protocol, with the mean of each group."""
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name, entry in record.scores.get("datasets", {}).items():
        groups.setdefault(str(entry.get("protocol", "seen")), []).append((name, entry))
    return [
        {
            "protocol": PROTOCOLS.get(protocol, protocol),
            "entries": entries,
            "mean": _mean(entry.get("miou") for _, entry in entries),
            "panoptic": any(entry.get("pq") is not None for _, entry in entries),
            "alone": _alone(record, [name for name, _ in entries]) if protocol == "seen" else {},
        }
        for protocol, entries in sorted(
            groups.items(), key=lambda g: list(PROTOCOLS).index(g[0]) if g[0] in PROTOCOLS else 9
        )
    ]


def _alone(record: Record, datasets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return, for a run of several datasets, the mean mIoU of the models of each dataset alone, and their `runs`."""
    if len(datasets) < 2:
        return {}
    found = {name: record.alone[name] for name in datasets if name in record.alone}
    return {name: {"miou": _mean(scores.values()), "runs": list(scores)} for name, scores in found.items()}


def _together(record: Record) -> list[Change]:
    """Compare the classes of a run of several datasets with the models of each dataset alone that lie beside it."""
    own = class_ious(record.scores)
    return changes(record.alone_classes, own) if len(own) > 1 else []


def _weakest(datasets: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """List the classes of least IoU over all datasets, with the class that each is most often confused with."""
    rows = [
        {**row, "dataset": d["name"], "confused": d["confused"].get(row["name"])}
        for d in datasets
        for row in d["rows"]
        if row["iou"] is not None and row["pixels"]
    ]
    return sorted(rows, key=lambda row: row["iou"])[:WEAKEST]


def _knowledge(record: Record) -> dict[str, Any] | None:
    """Draw the number of concepts that reach an IoU, over the IoU; None if it was not evaluated."""
    found = (record.scores.get("axes") or {}).get("knowledgeability")
    if not isinstance(found, dict):
        return None
    points = [(100 * _float(t), _float(n)) for t, n in found["curve"]]
    chart = line_chart("Concepts that reach an IoU", [Series("concepts", points)], along="IoU, %")
    return {"chart": chart, **found}


def _dataset(record: Record, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Gather one dataset's table, heat map and largest confusions."""
    classes: dict[str, dict[str, Any]] = entry.get("classes") or {}
    names = list(classes)
    counts = record.confusions.get(name)
    total = sum(int(c.get("pixels") or 0) for c in classes.values())
    fits = counts is not None and len(counts) == len(names) > 0
    rows = []
    for i, (label, score) in enumerate(classes.items()):
        pixels = int(score.get("pixels") or 0)
        iou = score.get("iou")
        row = {"name": label, "iou": iou, "pixels": pixels, "share": pixels / total if total else 0.0}
        if counts is not None and fits:
            hit, truth, predicted = int(counts[i, i]), int(counts[i].sum()), int(counts[:, i].sum())
            row |= {"recall": hit / truth if truth else None, "precision": hit / predicted if predicted else None}
        rows.append(row)
    return {
        "name": name,
        "entry": entry,
        "protocol": PROTOCOLS.get(str(entry.get("protocol", "seen")), str(entry.get("protocol"))),
        "rows": rows,
        "absent": sum(row["iou"] is None for row in rows),
        "heat": heat_map(names, _shares(counts)) if fits and counts is not None else "",
        "confusions": _largest(names, counts) if fits and counts is not None else [],
        "confused": _confused(names, counts) if fits and counts is not None else {},
        "misfit": ""
        if fits or counts is None
        else f"confusion.npz has {len(counts)} classes, scores.json {len(names)}",
    }


def _shares(counts: Int[np.ndarray, "D D"]) -> Float[np.ndarray, "D D"]:
    """Divide each row by its sum; rows of no pixels stay 0."""
    shares: Float[np.ndarray, "D D"] = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return shares


def _largest(names: Sequence[str], counts: Int[np.ndarray, "D D"]) -> list[dict[str, Any]]:
    """List the confusions of most pixels: true class, predicted class, pixels, share of the true class."""
    off = counts.copy()
    np.fill_diagonal(off, 0)
    shares = _shares(counts)
    order = np.argsort(-off, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [(int(k) // len(names), int(k) % len(names)) for k in order]
    return [
        {"truth": names[i], "predicted": names[j], "pixels": int(off[i, j]), "share": float(shares[i, j])}
        for i, j in pairs
        if off[i, j] > 0
    ]


def _confused(names: Sequence[str], counts: Int[np.ndarray, "D D"]) -> dict[str, dict[str, Any]]:
    """Return for every class the wrong class that is most often predicted, and its share of the class's pixels."""
    off, shares = counts.copy(), _shares(counts)
    np.fill_diagonal(off, 0)
    best = off.argmax(1)
    return {
        name: {"predicted": names[j], "share": float(shares[i, j])}
        for i, (name, j) in enumerate(zip(names, best.tolist(), strict=True))
        if off[i, j] > 0
    }


def _taxonomy(rows: list[list[str]]) -> dict[str, Any]:
    """Split the table into header and rows, and count the nodes of several datasets."""
    if not rows:
        return {"header": [], "rows": [], "shared": 0}
    return {"header": rows[0], "rows": rows[1:], "shared": sum(sum(map(bool, r[1:])) > 1 for r in rows[1:])}


def _mean(values: Iterable[Any]) -> float | None:
    finite = [v for v in map(_float, values) if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else None


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
