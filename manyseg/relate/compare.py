"""How far two taxonomies of the same datasets agree on which classes are related."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manyseg.errors import UserError
from manyseg.labels import Taxonomy

__all__ = ["Agreement", "agreement"]

Pair = tuple[tuple[str, str], tuple[str, str]]


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
    labels = [(s.name, n) for s in taxonomy.spaces for n in s.names]
    links = np.concatenate([taxonomy.relations[s.name] for s in taxonomy.spaces]).astype(np.float32)
    found = set()
    for i, j in np.argwhere(np.triu(links @ links.T > 0, 1)):
        x, y = sorted((labels[i], labels[j]))
        if x[0] != y[0]:
            found.add((x, y))
    return found
