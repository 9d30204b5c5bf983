"""Directed relations of classes to further nodes, mined from what a trained model says: UniSeg's class relations.

A taxonomy says which nodes a class may be; a model that has learned every dataset also says which nodes of other
datasets it sees on a class's pixels: `rider` on those of `motorcyclist`. Such a node becomes a further positive in
training. It never enters a taxonomy, so at test a class is read from its own node alone.

Axes: D classes of one dataset, U unified nodes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from manyseg.errors import UserError
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.relate.proposal import Relation

__all__ = ["PartOf", "add_mined", "mine_calibrated", "mine_published", "read_relations", "relations_tsv"]

SURE = 0.75
"""How near its own class a node's answer must be, between the class it was best taught to refuse (0) and its own (1).

A class half of which is the node's class lies about half-way: it contains the node and is no part of it.
"""

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


def mine_published(
    taxonomy: Taxonomy, means: Means, *, tau: float = -0.08, allow_own: bool = True
) -> tuple[PartOf, ...]:
    """Relate a class to every node that is more active on its pixels than its own node and than `tau`.

    UniSeg's rule, inferred from the authors' published tables, which agree with it and bound tau (of cosines) to
    -0.0807..-0.0790. Other nodes of the class's dataset count only with `allow_own`. A class without pixels has no
    relation: nothing speaks for one. In the order of datasets and classes, the most active node first.
    """
    out = []
    for space in taxonomy.spaces:
        relation, mean = taxonomy.relations[space.name], means[space.name]
        bar = np.maximum(tau, np.where(relation, mean, -np.inf).max(1, keepdims=True))
        possible = ~relation if allow_own else ~relation & ~relation.any(0)
        out += [_part_of(taxonomy, means, space, c, u, bar[c, 0]) for c, u in _where(possible & (mean > bar))]
    return _ordered(taxonomy, out)


def mine_calibrated(taxonomy: Taxonomy, means: Means) -> tuple[PartOf, ...]:
    """Relate classes to nodes without a threshold of activation, by what the nodes answer where the truth is known.

    In the datasets that have a node its answer is known on its own class (1) and on the class that it was best taught
    to refuse (0). On this scale it must answer `SURE` or more to a class of another dataset, and more than 0 itself,
    where a sigmoid says no; so must it to its own class, or it is not to be trusted elsewhere either. Of a node of
    several datasets the most demanding one counts.

    Classes of one dataset exclude each other: no class can be part of two of them, directly or by what its parts are
    part of. Relations are accepted from the surest on, unless they contradict those before. So a class has at most one
    relation into any dataset, and none into one that has its name.
    """
    own, refused = _references(taxonomy, means)
    usable = own > np.maximum(refused, 0)  # False where either is unknown, too.
    bar = np.maximum(refused + SURE * (own - refused), 0, where=usable, out=np.full_like(own, np.inf))
    found = []
    for space in taxonomy.spaces:
        mean = means[space.name]
        possible = ~taxonomy.relations[space.name] & (mean > bar)
        found += [
            ((mean[c, u] - refused[u]) / (own[u] - refused[u]), _part_of(taxonomy, means, space, c, u, bar[u]))
            for c, u in _where(possible)
        ]
    consistent = _Consistent(taxonomy)
    surest = [r for _, r in sorted(found, key=lambda item: (-item[0], item[1][:3]))]
    return _ordered(taxonomy, [r for r in surest if consistent.accepts(r)])


def _references(taxonomy: Taxonomy, means: Means) -> tuple[Float[np.ndarray, " U"], Float[np.ndarray, " U"]]:
    """Return each node's least mean on an own class and its largest on a class that is none of it; NaN if unknown."""
    own, refused = (np.full(len(taxonomy.unified), fill) for fill in (np.inf, -np.inf))
    for space in taxonomy.spaces:
        relation, mean = taxonomy.relations[space.name], means[space.name]
        rival = ~relation & relation.any(0)
        # Neither minimum nor maximum lets a NaN pass by: a class without pixels leaves its nodes unknown.
        own = np.minimum(own, np.where(relation, mean, np.inf).min(0))
        refused = np.maximum(refused, np.fmax.reduce(np.where(rival, mean, -np.inf), axis=0))
    return own, np.where(np.isfinite(refused), refused, np.nan)


class _Consistent:
    """Relations accepted so far; `reaches[a, b]` says that node a is part of node b, by any number of steps."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        n = len(taxonomy.unified)
        self.reaches = np.eye(n, dtype=bool)
        self.excludes = np.zeros((n, n), bool)
        for relation in taxonomy.relations.values():
            links = relation.astype(np.int64)
            self.excludes |= np.outer(relation.any(0), relation.any(0)) & (links.T @ links == 0)

    def accepts(self, relation: PartOf) -> bool:
        """Take a relation in, unless a node would then be part of two that exclude each other."""
        space, node = self.taxonomy.space(relation.dataset), self.taxonomy.unified.positions[relation.node]
        own = self.taxonomy.relations[relation.dataset][space.positions[relation.label]]
        parts, wholes = self.reaches[:, own].any(1), self.reaches[node]
        if (self.reaches[parts].any(0) @ self.excludes)[wholes].any():
            return False
        self.reaches |= np.outer(parts, wholes)
        return True


def _part_of(taxonomy: Taxonomy, means: Means, space: LabelSpace, c: int, u: int, bar: float) -> PartOf:
    return PartOf(space.name, space.names[c], taxonomy.unified.names[u], float(means[space.name][c, u]), float(bar))


def _where(found: Bool[np.ndarray, "D U"]) -> Iterator[tuple[int, int]]:
    yield from zip(*(axis.tolist() for axis in np.nonzero(found)), strict=True)


def _ordered(taxonomy: Taxonomy, relations: Sequence[PartOf]) -> tuple[PartOf, ...]:
    place = {(s.name, n): (i, c) for i, s in enumerate(taxonomy.spaces) for c, n in enumerate(s.names)}
    return tuple(sorted(relations, key=lambda r: (place[r.dataset, r.label], -r.score, r.node)))


def add_mined(relations: Sequence[Relation], mined: Sequence[PartOf], taxonomy: Taxonomy) -> tuple[Relation, ...]:
    """Put what was mined beside other evidence: the source `mined`, or `mined back` where the second class is the part.

    A node stands for each of its classes in other datasets. A pair that is there already keeps its kind, unless it is
    called unrelated; the others follow as "part of", with (1 + cosine) / 2 as score, or 1 where a person says so.
    """
    out = {frozenset((r.a, r.b)): r for r in relations}
    for m in mined:
        part, cosine = (m.dataset, m.label), round(m.score, 3)
        for whole in taxonomy.members(taxonomy.unified.positions[m.node]):
            if whole[0] == m.dataset:
                continue
            known = out.get(frozenset((part, whole)))
            value: float | str = "by hand" if np.isnan(cosine) else cosine
            if known is None or known.kind == "unrelated":
                before = {} if known is None else known.evidence
                score = 1.0 if np.isnan(cosine) else (1 + cosine) / 2
                known = Relation(part, whole, "part of", score, {**before, "mined": value})
            else:
                source = "mined" if known.a == part else "mined back"
                known = replace(known, evidence={**known.evidence, source: value})
            out[frozenset((part, whole))] = known
    return tuple(out.values())


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
