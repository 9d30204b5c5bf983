"""The result of an evaluation, by dataset and protocol, as JSON and as Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from manyseg import atomic
from manyseg.evaluation.confusion import Confusion
from manyseg.evaluation.knowledge import Knowledge
from manyseg.evaluation.panoptic_quality import Panoptic

__all__ = ["PROTOCOLS", "DatasetScores", "Protocol", "Scores"]

Protocol = Literal["seen", "names", "text", "labels"]

PROTOCOLS: Mapping[Protocol, str] = {
    "seen": "a training dataset, in its own labels",
    "names": "unseen, related by names; no label of it was used",
    "text": "unseen, related by text; no label of it was used",
    "labels": "unseen, map fitted on labels of another split",
}


@dataclass(frozen=True)
class DatasetScores:
    """One dataset under one protocol.

    `unmapped` names the classes that no unified node is related to; where they occur they score IoU 0.
    `panoptic` is given where both the labels and the model tell objects apart. `skipped` are the ids of images that
    were left out because their files cannot be read.
    """

    protocol: Protocol
    confusion: Confusion
    unmapped: tuple[str, ...] = ()
    panoptic: Panoptic | None = None
    skipped: tuple[str, ...] = ()

    @property
    def pq(self) -> float | None:
        """Panoptic quality in 0..1 over all classes; None where it was not measured, or no segment occurs."""
        value = self.panoptic.quality().pq if self.panoptic else math.nan
        return None if math.isnan(value) else value

    @property
    def miou(self) -> float:
        """Mean IoU in 0..1; NaN if no class occurs."""
        return self.confusion.miou

    @property
    def closed_miou(self) -> float | None:
        """Mean IoU in 0..1 of the classes that have a node alone; None where there is none, or the dataset was seen.

        UniSeg's authors score unseen datasets so: the model is told which classes there are, and pixels of a class that
        it cannot name are left out. Where every class has a node it is `miou`.
        """
        if self.protocol == "seen" or len(self.unmapped) == len(self.confusion.space):
            return None
        return _number(self.confusion.without(self.unmapped).miou)


@dataclass(frozen=True)
class Scores:
    """The scores of one model: each dataset once, under one protocol."""

    unified_nodes: int
    datasets: Mapping[str, DatasetScores]
    knowledge: Knowledge | None = None
    """Knowledgeability over the datasets seen in training, if any of them was evaluated."""

    @property
    def mean_miou_seen(self) -> float | None:
        """Arithmetic mean of the mIoU of the datasets seen in training; None if there is none."""
        return self.mean_miou("seen")

    def mean_miou(self, protocol: Protocol) -> float | None:
        """Return the arithmetic mean over the datasets of one protocol; protocols are never mixed in one mean."""
        found = [d.miou for d in self.datasets.values() if d.protocol == protocol and not math.isnan(d.miou)]
        return sum(found) / len(found) if found else None

    def to_json(self) -> dict[str, Any]:
        """Return what `manyseg eval --json` writes; null stands for what is not defined."""
        return {
            "unified_nodes": self.unified_nodes,
            "mean_miou_seen": self.mean_miou_seen,
            "datasets": {name: _dataset(scores) for name, scores in self.datasets.items()},
        } | ({} if self.knowledge is None else {"axes": self._axes(self.knowledge)})

    def _axes(self, knowledge: Knowledge) -> dict[str, Any]:
        unseen = {p: self.mean_miou(p) for p in PROTOCOLS if p != "seen"}
        return {
            "performance": self.mean_miou_seen,
            "generalisation": {p: mean for p, mean in unseen.items() if mean is not None},
            "knowledgeability": knowledge.to_json(),
        }

    def write(self, path: str | Path) -> None:
        """Write `to_json` to a file."""
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        atomic.write(path, text + "\n")

    def to_markdown(self, *, classes: bool = True) -> str:
        """Render a summary, its means by protocol, and the `classes` of every dataset; values in per cent."""
        lines = [
            f"{self.unified_nodes} unified nodes.",
            "",
            "| dataset | protocol | mIoU | pixel accuracy | PQ | classes | absent | unmapped |",
            "|---|---|---:|---:|---:|---:|---:|---:|",
        ]
        for name, d in self.datasets.items():
            c = d.confusion
            values = (
                _percent(c.miou),
                _percent(c.accuracy),
                _percent(d.pq),
                len(c.space),
                len(c.absent),
                len(d.unmapped),
            )
            lines.append(f"| {name} | {d.protocol} | {' | '.join(map(str, values))} |")
        lines += ["", *self._means(), "", _LEGEND]
        for name, d in self.datasets.items() if classes else ():
            lines += ["", f"### {name} ({d.protocol}: {PROTOCOLS[d.protocol]})", "", *_classes(d)]
            lines += ["", *_segments(d.panoptic)] if d.panoptic else []
        return "\n".join(lines) + "\n"

    def _means(self) -> list[str]:
        out = []
        for name, d in self.datasets.items():
            if d.skipped:
                lost = f"{len(d.skipped)} images are not scored, as their files cannot be read"
                out.append(f"- {name}: {lost}: {_few(d.skipped)}")
        for name, d in self.datasets.items():
            if d.unmapped and d.closed_miou is not None:
                left = f"the {len(d.unmapped)} unmapped classes and their pixels left out"
                out.append(f"- {name}: mIoU {_percent(d.closed_miou)} as a closed set, {left}")
        for protocol in PROTOCOLS:
            count = sum(d.protocol == protocol for d in self.datasets.values())
            if count:
                plural = "s" if count > 1 else ""
                mean = _percent(self.mean_miou(protocol))
                out.append(f"- mean mIoU, {protocol}: {mean} (arithmetic, over {count} dataset{plural})")
        if self.knowledge is not None:
            k = self.knowledge
            out.append(
                f"- knowledgeability: {k.area:.1f} of {k.concepts} concepts (area of the curve); "
                f"{k.count(0.25)} reach an IoU of 25, {k.count(0.5)} of 50, {k.count(0.75)} of 75"
            )
        return out


SHOWN = 5
"""Skipped images that are listed; scores.json names all."""


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


_LEGEND = (
    "Absent: classes in neither truth nor prediction, left out of the mean. Unmapped: classes that no unified node is "
    "related to; they score 0 where they occur, and stay in the mean."
)


def _dataset(scores: DatasetScores) -> dict[str, Any]:
    c = scores.confusion
    rows = zip(c.space.names, c.iou.tolist(), c.pixels.tolist(), strict=True)
    return (
        {
            "protocol": scores.protocol,
            "miou": _number(c.miou),
            "pixel_accuracy": _number(c.accuracy),
            "pq": scores.pq,
            "skipped": list(scores.skipped),
            "classes": {name: {"iou": _number(iou), "pixels": pixels} for name, iou, pixels in rows},
        }
        | ({"closed_miou": scores.closed_miou} if scores.unmapped else {})
        | ({} if scores.panoptic is None else {"panoptic": _panoptic(scores.panoptic)})
    )


def _panoptic(panoptic: Panoptic) -> dict[str, dict[str, float | None]]:
    kinds = {"all": None, "things": True, "stuff": False}
    found = {name: panoptic.quality(things)._asdict() for name, things in kinds.items()}
    return {name: {key: _number(value) for key, value in row.items()} for name, row in found.items()}


def _segments(panoptic: Panoptic) -> list[str]:
    lines = ["| segments | PQ | SQ | RQ | classes |", "|---|---:|---:|---:|---:|"]
    for name, row in _panoptic(panoptic).items():
        cells = " | ".join(_percent(row[key]) for key in ("pq", "sq", "rq"))
        lines.append(f"| {name} | {cells} | {row['classes']} |")
    return lines


def _classes(scores: DatasetScores) -> list[str]:
    c = scores.confusion
    lines = ["| class | IoU | pixels | |", "|---|---:|---:|---|"]
    for name, iou, pixels in zip(c.space.names, c.iou.tolist(), c.pixels.tolist(), strict=True):
        note = "unmapped" if name in scores.unmapped else "absent" if math.isnan(iou) else ""
        lines.append(f"| {name} | {_percent(iou)} | {pixels:,} | {note} |")
    return lines


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"
