"""Directed relations of classes to further nodes, mined from what a trained model says: UniSeg's class relations.

A taxonomy says which nodes a class may be; a model that has learned every dataset also says which nodes of other
datasets it sees on a class's pixels: `rider` on those of `motorcyclist`. Such a node becomes a further positive in
training. It never enters a taxonomy, so at test a class is read from its own node alone.

Axes: D classes of one dataset, U unified nodes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from manyseg.errors import UserError
from manyseg.labels import Taxonomy

__all__ = ["PartOf", "calibrated_bars", "mine", "published_bars", "read_relations", "relations_tsv"]

COLUMNS = ("dataset", "class", "part of")
"""Columns of a table of relations that are read; `score` and `bar` follow them and are for people."""


class PartOf(NamedTuple):
    """A class of a dataset whose pixels are positives of a further unified node too.

    `score` is the node's mean activation on the class's pixels, `bar` what it exceeded; both NaN where a person
    says so.
    """

    dataset: str
    label: str
    node: str
    score: float = np.nan
    bar: float = np.nan


Means = Mapping[str, Float[np.ndarray, "D U"]]
"""By dataset, the mean activation of every node on the pixels of every class; a class without pixels has NaN."""


def mine(taxonomy: Taxonomy, means: Means, bars: Means, *, allow_own: bool = True) -> tuple[PartOf, ...]:
    """List every further node whose mean activation on a class exceeds the bar, by dataset, class, then score.

    A class's own nodes are none of them. Other nodes of its dataset are only with `allow_own`. A class without pixels
    has no relation: nothing speaks for one.
    """
    out = []
    for space in taxonomy.spaces:
        relation = taxonomy.relations[space.name]
        possible = ~relation if allow_own else ~relation & ~relation.any(0)
        found: Bool[np.ndarray, "D U"] = possible & (means[space.name] > bars[space.name])
        for c, row in enumerate(found):
            for u in sorted(np.flatnonzero(row), key=lambda u: -means[space.name][c, u]):
                score, bar = (float(m[space.name][c, u]) for m in (means, bars))
                out.append(PartOf(space.name, space.names[c], taxonomy.unified.names[u], score, bar))
    return tuple(out)


def published_bars(taxonomy: Taxonomy, means: Means, tau: float) -> Means:
    """Return UniSeg's bar: `tau`, or the mean of the class's own best node where that is larger.

    The rule is inferred from the authors' published tables, which agree with it and bound tau to -0.0807..-0.0790.
    """
    out = {}
    for space in taxonomy.spaces:
        mean = means[space.name]
        own = np.where(taxonomy.relations[space.name], mean, -np.inf).max(1)
        out[space.name] = np.broadcast_to(np.maximum(tau, own)[:, None], mean.shape)
    return out


def calibrated_bars(taxonomy: Taxonomy, means: Means) -> Means:
    """Return, for every node, the middle between its own class and the class it was best taught to refuse.

    Both are known within the datasets that have the node: its mean on its own class there, and the largest mean on a
    class that is none of it. A class of another dataset that lies above the middle looks to the node like its own. No
    threshold is set by hand, and nodes that answer faintly are judged by their own measure. Of a node of several
    datasets the higher middle counts. A node without such evidence has an infinite bar.
    """
    middles = []
    for space in taxonomy.spaces:
        relation, mean = taxonomy.relations[space.name], means[space.name]
        known = ~np.isnan(mean[:, :1])
        own = np.where(relation & known, mean, np.inf).min(0)
        refused = np.where(~relation & relation.any(0) & known, mean, -np.inf).max(0)
        usable = np.isfinite(own) & np.isfinite(refused)
        middles.append(np.where(usable, np.add(own, refused, where=usable, out=np.zeros_like(own)) / 2, -np.inf))
    bar = np.max(middles, axis=0)
    bar = np.where(np.isfinite(bar), bar, np.inf)
    return {s.name: np.broadcast_to(bar, means[s.name].shape) for s in taxonomy.spaces}


# The table.


def relations_tsv(relations: Sequence[PartOf]) -> str:
    """Render the table that `read_relations` reads: a row a relation, with its score and the bar that it exceeds."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
    writer.writerow([*COLUMNS, "score", "bar"])
    for r in relations:
        writer.writerow([*r[:3], *("" if np.isnan(v) else f"{v:.4f}" for v in (r.score, r.bar))])
    return out.getvalue()


def read_relations(path: Path, taxonomy: Taxonomy) -> tuple[PartOf, ...]:
    """Read a table that `relations_tsv` wrote, edited or written by hand; rows of other datasets are skipped.

    Raises UserError naming file and row for a class or node that is unknown.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: there is no such table of relations") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 text (byte {e.start}); save the table as UTF-8 TSV") from None
    rows = list(csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or tuple(c.strip() for c in rows[0][:3]) != COLUMNS:
        raise UserError(f"{path}: the first row must start with {', '.join(COLUMNS)}, separated by tabs")
    found = [_parse(path, number, row, taxonomy) for number, row in enumerate(rows[1:], 2) if any(row)]
    return tuple(r for r in found if r is not None)


def _parse(path: Path, number: int, row: Sequence[str], taxonomy: Taxonomy) -> PartOf | None:
    dataset, label, node, score, bar = [c.strip() for c in (*row, "", "", "", "", "")[:5]]
    if dataset not in taxonomy.relations:
        return None
    for name, space in ((label, taxonomy.space(dataset)), (node, taxonomy.unified)):
        if name not in space.positions:
            known = f"{', '.join(space.names[:8])}{' ...' * (len(space) > 8)}"
            raise UserError(f"{path}, row {number}: '{name}' is no class of '{space.name}'; there are: {known}")
    try:
        return PartOf(dataset, label, node, *(float(v) if v else np.nan for v in (score, bar)))
    except ValueError:
        raise UserError(
            f"{path}, row {number}: score and bar are numbers, or empty; they are '{score}', '{bar}'"
        ) from None
