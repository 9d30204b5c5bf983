"""How far two taxonomies of the same datasets agree on which classes are related."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from manyseg.errors import UserError
from manyseg.labels import ClassKey, Taxonomy

__all__ = ["Agreement", "agreement"]

Pair = tuple[ClassKey, ClassKey]


@dataclass(frozen=True)
class Agreement:
    """Related pairs (of different datasets, sharing a node) of a `proposal` against those of a reference.

    `missing` are related in the reference only, `surplus` in the proposal only; a ratio with nothing below it is 1.
    """

    precision: float
    recall: float
    f1: float
    missing: tuple[Pair, ...]
    surplus: tuple[Pair, ...]


def agreement(proposal: Taxonomy, reference: Taxonomy) -> Agreement:
    """Compare two taxonomies pair by pair; raises UserError where their datasets or classes differ."""
    ours, theirs = ({s.name: set(s.names) for s in t.spaces} for t in (proposal, reference))
    if ours != theirs:
        raise UserError("the taxonomies are of different datasets or classes; compare two of the same label spaces")
    a, b = _related(proposal), _related(reference)
    both = len(a & b)
    return Agreement(
        both / len(a) if a else 1.0,
        both / len(b) if b else 1.0,
        2 * both / (len(a) + len(b)) if a or b else 1.0,
        tuple(sorted(b - a)),
        tuple(sorted(a - b)),
    )


def _related(taxonomy: Taxonomy) -> set[Pair]:
    pairs = (pair for u in range(len(taxonomy.unified)) for pair in combinations(sorted(taxonomy.members(u)), 2))
    return {(a, b) for a, b in pairs if a[0] != b[0]}
