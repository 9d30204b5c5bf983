"""Classes that are part of nodes of other datasets, mined from a trained model: UniSeg's class relations.

A taxonomy says which nodes a class may be; a model that has learned every dataset also says which nodes of other
datasets are active on a class's pixels: `rider` on those of `motorcyclist`. Such a node becomes a further positive
target in training. It does not enter the taxonomy, so that at test a class is predicted by its own node alone.

Axes: D classes of one dataset, U unified nodes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from manyseg.errors import UserError, close
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.relate.proposal import ClassPair
from manyseg.textfile import read_table, read_text, table_text

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["PartOf", "add_mined", "mine_calibrated", "mine_published", "part_of_tsv", "read_part_of"]

MIN_ANSWER = 0.75
"""How active a node must be on a class that is part of it: 1 is as on the node's own class, 0 as on the class that it
was taught to refuse and is most active on. On a class half of which is the node's class it is about half as active:
that class contains the node's, and is no part of it.
"""

COLUMNS = ("dataset", "class", "part of")
"""The columns of a table that are read; `score` and `threshold` follow them, for information."""


class PartOf(NamedTuple):
    """A class of a dataset whose pixels are positive for a further unified node, of which the class is a part.

    `score` is the node's mean activation on the class's pixels, `threshold` what it exceeded; both are NaN where a
    person said so.
    """

    dataset: str
    label: str
    node: str
    score: float = np.nan
    threshold: float = np.nan


Means: TypeAlias = "Mapping[str, Float[np.ndarray, 'D U']]"
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
        threshold = np.maximum(tau, np.where(relation, mean, -np.inf).max(1, keepdims=True))
        possible = ~relation if allow_own else ~relation & ~relation.any(0)
        out += [
            _part_of(taxonomy, means, space, c, u, threshold[c, 0]) for c, u in _where(possible & (mean > threshold))
        ]
    return _ordered(taxonomy, out)


def mine_calibrated(taxonomy: Taxonomy, means: Means) -> tuple[PartOf, ...]:
    """Relate classes to nodes by thresholds that each node sets itself, where the truth about it is known.

    In the datasets that have the node it is known to be present on its own class, and absent on the other classes; its
    mean activations there, on the latter the largest, are 1 and 0 of a scale. On a class of another dataset it must be
    above `MIN_ANSWER` of that scale, and above 0 itself, where a sigmoid says no. A node that is not above 0 on its own
    class is not used. Of a node of several datasets the strictest values count.

    The classes of one dataset exclude each other, so no class can be part of two of them, directly or through what it
    is part of. Relations are accepted in order, the most certain first, unless they contradict those before. A class
    therefore has at most one relation into any dataset, and none into a dataset that has a class of its node.
    """
    own, refused = _references(taxonomy, means)
    usable = own > np.maximum(refused, 0)  # False where either is unknown, too.
    threshold = np.maximum(refused + MIN_ANSWER * (own - refused), 0, where=usable, out=np.full_like(own, np.inf))
    found = []
    for space in taxonomy.spaces:
        mean = means[space.name]
        possible = ~taxonomy.relations[space.name] & (mean > threshold)
        found += [
            ((mean[c, u] - refused[u]) / (own[u] - refused[u]), _part_of(taxonomy, means, space, c, u, threshold[u]))
            for c, u in _where(possible)
        ]
    consistent = _Consistent(taxonomy)
    ordered = [r for _, r in sorted(found, key=lambda item: (-item[0], item[1][:3]))]
    return _ordered(taxonomy, [r for r in ordered if consistent.add(r)])


def _references(taxonomy: Taxonomy, means: Means) -> tuple[Float[np.ndarray, " U"], Float[np.ndarray, " U"]]:
    """Return each node's smallest mean on its own classes and its largest on other classes; NaN where unknown."""
    own, refused = (np.full(len(taxonomy.unified), fill) for fill in (np.inf, -np.inf))
    for space in taxonomy.spaces:
        relation, mean = taxonomy.relations[space.name], means[space.name]
        other = ~relation & relation.any(0)
        # Neither minimum nor maximum ignores a NaN: an own class without pixels leaves its nodes unknown.
        own = np.minimum(own, np.where(relation, mean, np.inf).min(0))
        refused = np.maximum(refused, np.fmax.reduce(np.where(other, mean, -np.inf), axis=0))
    return own, np.where(np.isfinite(refused), refused, np.nan)


class _Consistent:
    """Relations that do not contradict each other; `within[a, b]`: node a is part of b, by any number of steps."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        n = len(taxonomy.unified)
        self.within = np.eye(n, dtype=bool)
        self.excludes = np.zeros((n, n), bool)
        for relation in taxonomy.relations.values():
            known, counts = relation.any(0), relation.astype(np.int64)
            self.excludes |= np.outer(known, known) & (counts.T @ counts == 0)

    def add(self, relation: PartOf) -> bool:
        """Add a relation, unless a node would be part of two that exclude each other; say whether it was added."""
        space, node = self.taxonomy.space(relation.dataset), self.taxonomy.unified.positions[relation.node]
        own = self.taxonomy.relations[relation.dataset][space.positions[relation.label]]
        parts, wholes = self.within[:, own].any(1), self.within[node]
        if (self.within[parts].any(0) @ self.excludes)[wholes].any():
            return False
        self.within |= np.outer(parts, wholes)
        return True


def _part_of(taxonomy: Taxonomy, means: Means, space: LabelSpace, c: int, u: int, threshold: float) -> PartOf:
    return PartOf(
        space.name, space.names[c], taxonomy.unified.names[u], float(means[space.name][c, u]), float(threshold)
    )


def _where(found: Bool[np.ndarray, "D U"]) -> Iterator[tuple[int, int]]:
    yield from zip(*(axis.tolist() for axis in np.nonzero(found)), strict=True)


def _ordered(taxonomy: Taxonomy, relations: Sequence[PartOf]) -> tuple[PartOf, ...]:
    position = taxonomy.classes.positions
    return tuple(sorted(relations, key=lambda r: (position[r.dataset, r.label], -r.score, r.node)))


def add_mined(pairs: Sequence[ClassPair], mined: Sequence[PartOf], taxonomy: Taxonomy) -> tuple[ClassPair, ...]:
    """Add what was mined to the evidence of pairs: `mined`, or `mined back` where the second class is the part.

    A node stands for each of its classes in other datasets. A pair that is there already keeps its kind, unless that is
    "unrelated"; new pairs follow as "part of", with score (1 + cosine) / 2, or 1 where a person said so.
    """
    out = {frozenset((p.a, p.b)): p for p in pairs}
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
                known = ClassPair(part, whole, "part of", score, {**before, "mined": value})
            else:
                source = "mined" if known.a == part else "mined back"
                known = replace(known, evidence={**known.evidence, source: value})
            out[frozenset((part, whole))] = known
    return tuple(out.values())


# The table.


def part_of_tsv(relations: Sequence[PartOf]) -> str:
    """Render the table that `read_part_of` reads: a row for each relation, its score, the threshold exceeded."""
    rows: list[list[str]] = [[*COLUMNS, "score", "threshold"]]
    rows += [[*r[:3], *("" if np.isnan(v) else f"{v:.4f}" for v in (r.score, r.threshold))] for r in relations]
    return table_text(rows)


def read_part_of(path: Path, taxonomy: Taxonomy) -> tuple[PartOf, ...]:
    """Read a table that `part_of_tsv` or a person wrote; rows about other datasets are skipped.

    Raises UserError naming file and row for a class or node that is unknown.
    """
    try:
        rows = list(read_table(read_text(path)))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such table of relations; correct its name") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 text (byte {e.start}); save the table as UTF-8 TSV") from None
    except (OSError, ValueError, csv.Error) as e:
        raise UserError(f"{path}: cannot be read as a table ({e}); save it as UTF-8 TSV") from None
    if not rows or tuple(rows[0][1][:3]) != COLUMNS:
        raise UserError(f"{path}: the first row must start with {', '.join(COLUMNS)}, separated by tabs")
    found = [_parse(path, number, row, taxonomy) for number, row in rows[1:]]
    return tuple(r for r in found if r is not None)


def _parse(path: Path, number: int, row: Sequence[str], taxonomy: Taxonomy) -> PartOf | None:
    dataset, label, node, score, threshold = [c.strip() for c in (*row, "", "", "", "", "")[:5]]
    if dataset not in taxonomy.relations:
        return None
    for name, space in ((label, taxonomy.space(dataset)), (node, taxonomy.unified)):
        if name not in space.positions:
            known, meant = f"{', '.join(space.names[:8])}{' ...' * (len(space) > 8)}", close(name, space.names)
            raise UserError(f"{path}, row {number}: '{name}' is no class of '{space.name}'{meant}; there are: {known}")
    try:
        return PartOf(dataset, label, node, *(float(v.replace(",", ".")) if v else np.nan for v in (score, threshold)))
    except ValueError:
        raise UserError(
            f"{path}, row {number}: score and threshold are numbers, or empty; they are '{score}', '{threshold}'"
        ) from None
