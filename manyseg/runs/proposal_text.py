"""A proposed label space in words, as `manyseg labels` prints it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import indent

import numpy as np

from manyseg.explorer.conflicts import conflicts
from manyseg.labels import Taxonomy
from manyseg.labels.hierarchy import Hierarchy
from manyseg.relate import Agreement, ClassPair, PartOf

__all__ = ["describe_difference", "describe_mined", "describe_taxonomy"]

SHOWN = 10
"""Conflicts and differences that are listed; the page has all."""


def describe_taxonomy(taxonomy: Taxonomy, pairs: Sequence[ClassPair]) -> Iterator[str]:
    """Yield lines about a taxonomy: its shared nodes, its hierarchy, and its conflicts with the evidence of `pairs`."""
    kinds = Counter(p.kind for p in pairs)
    found = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common() if kind != "unrelated")
    yield (
        f"{len(taxonomy.classes)} classes of {len(taxonomy.spaces)} datasets in {len(taxonomy.unified)} unified nodes"
        + (f"; pairs of classes: {found}" if found else "")
    )
    single = []
    for u, name in enumerate(taxonomy.unified.names):
        members = taxonomy.members(u)
        if len(members) > 1:
            yield f"  {name}: " + ", ".join(f"{d}:{n}" for d, n in members)
        else:
            single.append(name)
    if single:
        yield f"  of one class each: {', '.join(single)}"
    tree = Hierarchy.of(taxonomy)
    if len(tree.inner) > 1 or tree.split:
        yield "the hierarchy of these classes, as the method htss learns it:"
        yield indent(tree.to_text(), "  ")
    doubts = conflicts(taxonomy, pairs)
    for c in doubts[:SHOWN]:
        yield f"  look at ({c.kind}): {c.a[0]}:{c.a[1]} and {c.b[0]}:{c.b[1]}; evidence: {c.evidence or 'none'}"
    if len(doubts) > SHOWN:
        yield f"  look at: {len(doubts) - SHOWN} more, all in the page that --html writes"


def describe_difference(path: Path, found: Agreement) -> Iterator[str]:
    """Yield lines about what the table at `path` has that the proposal does not, and the other way round."""
    yield (
        f"{path}: {len(found.surplus)} pairs of classes share a node that the proposal keeps apart, "
        f"{len(found.missing)} do not that it unites"
    )
    for title, pairs in (("only in the table", found.surplus), ("only in the proposal", found.missing)):
        for a, b in pairs[:SHOWN]:
            yield f"  {title}: {a[0]}:{a[1]} with {b[0]}:{b[1]}"
        if len(pairs) > SHOWN:
            yield f"  {title}: {len(pairs) - SHOWN} more"


def describe_mined(mined: Sequence[PartOf]) -> Iterator[str]:
    """Yield lines about the part-of relations that a run found in training (its relations.tsv)."""
    for m in mined:
        score = "by hand" if np.isnan(m.score) else f"{m.score:.3f}, threshold {m.threshold:.3f}"
        yield f"  mined in training: {m.dataset}:{m.label} is part of {m.node} ({score})"
