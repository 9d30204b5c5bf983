"""Every head of a model on every dataset, through maps fitted on labelled images (AutoUniSeg, Table 3).

Axes: D classes of a dataset, U unified nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from manyseg.errors import UserError
from manyseg.evaluation.confusion import Confusion
from manyseg.labels import LabelSpace, Relation
from manyseg.relate.assignment import map_by_iou
from manyseg.relate.statistics import Statistics

__all__ = ["CrossTable", "cross_table", "map_counts"]


def map_counts(counts: Int64[np.ndarray, "D U"], relation: Relation) -> Int64[np.ndarray, "D D+1"]:
    """Turn counts of predicted nodes into counts of predicted classes; the pixels of a node are those of its class.

    Pixels of a node of no class go to the last column. Raises ValueError if a node has several classes.
    """
    if (relation.sum(0) > 1).any():
        raise ValueError("a node belongs to several classes; counts of nodes cannot be divided between them")
    by_class = counts @ relation.T.astype(np.int64)
    return np.hstack([by_class, (counts.sum(1) - by_class.sum(1))[:, None]])


@dataclass(frozen=True)
class CrossTable:
    """Every head of a model, and its unified nodes, on every dataset, each through a fitted map."""

    confusions: Mapping[tuple[str, str], Confusion]
    """By (target dataset, head)."""

    def to_markdown(self) -> str:
        """Render mIoU in per cent: a row for each head, a column for each dataset, and the mean over the datasets."""
        targets = list(dict.fromkeys(t for t, _ in self.confusions))
        heads = list(dict.fromkeys(h for _, h in self.confusions))
        lines = [f"| head | {' | '.join(targets)} | mean |", "|---" + "|---:" * (len(targets) + 1) + "|"]
        for head in heads:
            values = [self.confusions[t, head].miou if (t, head) in self.confusions else float("nan") for t in targets]
            cells = [_percent(v) for v in (*values, float(np.mean(values)))]
            lines.append(f"| {head} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"


def cross_table(spaces: Mapping[str, LabelSpace], fit: Statistics, score: Statistics) -> CrossTable:
    """Score every head against every dataset that both statistics hold (AutoUniSeg, Table 3).

    `spaces` are the targets' label spaces by name. The map from a head's classes to a target's is fitted on `fit`
    (least cost, 1 - IoU) and scored on `score`, also for a target's own head: the protocol is "labels" throughout.
    Raises UserError if both contain the same image of a target, or are of different models.
    """
    if fit.key != score.key:
        raise UserError(
            "the statistics to fit maps and to score them are of different models; collect both from one run"
        )
    out = {}
    for target, head in fit.counts:
        if target not in spaces or (target, head) not in score.counts:
            continue
        if shared := len(np.intersect1d(fit.images[target], score.images[target])):
            raise UserError(
                f"{shared} images of '{target}' would both fit the map and be scored; take another split for the map"
            )
        relation = map_by_iou(fit.counts[target, head])
        out[target, head] = Confusion(spaces[target], map_counts(score.counts[target, head], relation))
    return CrossTable(out)
