"""The workbench's page: what to look at first, one row for each unified node, and the evidence of every node."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from manyseg import atomic
from manyseg.explorer.conflicts import KINDS, Conflict, conflicts, pair_key
from manyseg.explorer.difference import Difference, difference
from manyseg.explorer.review import review
from manyseg.labels import ClassKey, Taxonomy
from manyseg.relate import ClassPair, Constraints
from manyseg.templates import render

__all__ = ["explorer_page", "write_explorer"]

THUMB = 88
"""The longer side of an example crop in pixels; a crop has some 2 kB."""

CROPS = 4
"""Example crops that are shown of each class."""

OUTSIDE = 6
"""The number of relations to classes outside its node that are shown of a class: those of the highest scores."""


def write_explorer(
    path: str | Path,
    taxonomy: Taxonomy,
    pairs: Sequence[ClassPair] | None = None,
    crops: Mapping[ClassKey, Sequence[UInt8[np.ndarray, "_ _ 3"]]] | None = None,
    other: Taxonomy | None = None,
    decided: Constraints | None = None,
) -> Path:
    """Write the page of `explorer_page` as one self-contained file, and return its path."""
    return atomic.write(path, explorer_page(taxonomy, pairs, crops, other, decided))


def explorer_page(
    taxonomy: Taxonomy,
    pairs: Sequence[ClassPair] | None = None,
    crops: Mapping[ClassKey, Sequence[UInt8[np.ndarray, "_ _ 3"]]] | None = None,
    other: Taxonomy | None = None,
    decided: Constraints | None = None,
    save: str = "",
) -> str:
    """Return a page to check and correct `taxonomy`.

    What is corrected in the page can be downloaded, as the table and as a file of constraints. `pairs` are the
    evidence: shown for every merge, and the source of conflicts. `crops` are examples of classes by (dataset, class).
    `other` is an earlier taxonomy: the page lists what changed. `decided` is kept in the constraints that the page
    gives out. Where a server gives the page, `save` is the address to which it posts both files as JSON.
    """
    found = conflicts(taxonomy, pairs or ())
    since = None if other is None else difference(other, taxonomy)
    nodes = _nodes(taxonomy, pairs or (), found, since)
    shared = sum(node["datasets"] > 1 for node in nodes)
    return render(
        "explorer.html",
        title=", ".join(s.name for s in taxonomy.spaces),
        spaces=taxonomy.spaces,
        nodes=[nodes[u] for u in _order(taxonomy)],
        shared=shared,
        evidence=pairs is not None,
        conflicts=[(kind, [c for c in found if c.kind == kind]) for kind in KINDS],
        node_names=taxonomy.unified.names,
        difference=since,
        before=None if other is None else len(other.unified),
        flow=_flow(taxonomy, nodes),
        data=_data(taxonomy, pairs, crops or {}, decided or Constraints()) | {"save": save},
    )


def _nodes(
    taxonomy: Taxonomy, pairs: Sequence[ClassPair], found: Sequence[Conflict], since: Difference | None
) -> list[dict[str, Any]]:
    """Describe each row: its cells by dataset, as (position, name, number of nodes), and marks such as conflicts."""
    # A pair without evidence (-1) ranks below one that is unrelated by the evidence (0).
    scores = {pair_key(r.a, r.b): 0.0 if r.kind == "unrelated" else float(r.score) for r in pairs}
    spread = dict(zip(taxonomy.classes.keys, taxonomy.joint_relation.sum(1).tolist(), strict=True))
    disputed = {pair_key(c.a, c.b) for c in found}
    unmerged = {member for c in found if c.kind in ("missing merge", "same name") for member in (c.a, c.b)}
    changed = {c.after: c.kind for c in since.changes if c.after} if since else {}
    out = []
    for u, name in enumerate(taxonomy.unified.names):
        members = taxonomy.members(u)
        cells = [[(s.positions[m[1]], m[1], spread[m]) for m in members if m[0] == s.name] for s in taxonomy.spaces]
        merged = [pair_key(a, b) for i, a in enumerate(members) for b in members[:i]]
        out.append(
            {
                "index": u,
                "name": name,
                "cells": cells,
                "datasets": sum(map(bool, cells)),
                "last": max(i for i, cell in enumerate(cells) if cell),
                "weakest": min((scores.get(p, -1.0) for p in merged), default=None) if pairs else None,
                "conflict": any(m in unmerged for m in members) or any(p in disputed for p in merged),
                "change": changed.get(name, ""),
            }
        )
    return out


def _order(taxonomy: Taxonomy) -> list[int]:
    """Order nodes so that those of one coarse class follow each other, the groups of most datasets first.

    Groups are nodes joined by common classes; inside one, nodes are sorted by their classes, coarsest dataset first.
    """
    group = np.arange(len(taxonomy.unified))
    for space in taxonomy.spaces:
        for row in taxonomy.relations[space.name]:
            joined = np.unique(group[row])
            group[np.isin(group, joined)] = joined[0]
    coarse = sorted(taxonomy.spaces, key=lambda s: -float(taxonomy.relations[s.name].sum(1).mean()))
    ranks = [np.where((r := taxonomy.relations[s.name]).any(0), r.argmax(0), len(s)) for s in coarse]
    count = np.sum([taxonomy.relations[s.name].any(0) for s in taxonomy.spaces], axis=0)
    most = {g: int(np.max(count[group == g])) for g in np.unique(group).tolist()}
    return sorted(
        range(len(group)),
        key=lambda u: (-most[int(group[u])], int(group[u]), *(int(rank[u]) for rank in ranks), u),
    )


def _flow(taxonomy: Taxonomy, nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lay out the overview: how many of each dataset's relations lead to nodes of 1, 2, ... datasets.

    Heights are in pixels; bands leave a dataset in the order of the blocks at which they end, so that none cross twice.
    """
    names = [s.name for s in taxonomy.spaces]
    table = np.zeros((len(names), len(names)), int)
    for node in nodes:
        for i, cell in enumerate(node["cells"]):
            table[i, node["datasets"] - 1] += len(cell)
    counts = [k for k in range(len(names) - 1, -1, -1) if table[:, k].any()]
    gap, tall = 26, 300
    unit = tall / table.sum()
    height = round(tall + gap * (max(len(names), len(counts)) - 1)) + 30
    starts = _stack(table.sum(1) * unit, gap, height)
    ends = dict(zip(counts, _stack(table.sum(0)[counts] * unit, gap, height), strict=True))
    left = [
        {"name": n, "y": y, "h": h, "classes": len(taxonomy.spaces[i])}
        for i, (n, (y, h)) in enumerate(zip(names, starts, strict=True))
    ]
    right = [
        {"k": k + 1, "y": ends[k][0], "h": ends[k][1], "nodes": sum(n["datasets"] == k + 1 for n in nodes)}
        for k in counts
    ]
    ribbons = []
    into = {k: ends[k][0] for k in counts}
    for i, (y, _) in enumerate(starts):
        for k in counts:
            if table[i, k]:
                thick = float(table[i, k] * unit)
                ribbons.append(
                    {
                        "from": y,
                        "to": into[k],
                        "h": thick,
                        "set": i,
                        "name": names[i],
                        "k": k + 1,
                        "n": int(table[i, k]),
                    }
                )
                y += thick
                into[k] += thick
    return {"left": left, "right": right, "ribbons": ribbons, "height": height}


def _stack(heights: Sequence[float] | np.ndarray, gap: float, total: float) -> list[tuple[float, float]]:
    """Stack blocks with gaps, centred in `total`: (y, height) of each."""
    y = (total - float(np.sum(heights)) - gap * (len(heights) - 1)) / 2
    out = []
    for h in heights:
        out.append((y, float(h)))
        y += float(h) + gap
    return out


def _data(
    taxonomy: Taxonomy,
    evidence: Sequence[ClassPair] | None,
    crops: Mapping[ClassKey, Sequence[UInt8[np.ndarray, "_ _ 3"]]],
    decided: Constraints,
) -> dict[str, Any]:
    """Return what the page's script needs to show a node; classes are numbered over all datasets."""
    number, pairs = taxonomy.classes.positions, evidence or ()
    doubtful = review(taxonomy, pairs)
    said = (("must_link", "same"), ("cannot_link", "none"), ("part_of", "whole"), ("unsure", "unknown"))
    return {
        "datasets": [s.name for s in taxonomy.spaces],
        "classes": [[i, c.name, c.description] for i, s in enumerate(taxonomy.spaces) for c in s.classes],
        "colors": [color for s in taxonomy.spaces for color in taxonomy.painted(s).hex_colors],
        "evidence": evidence is not None,
        "decided": [[number[a], number[b], reply] for name, reply in said for a, b in getattr(decided, name)],
        "review": [[number[about], [number[c] for c in others]] for about, others in doubtful],
        "nodes": [[name, [number[m] for m in taxonomy.members(u)]] for u, name in enumerate(taxonomy.unified.names)],
        "relations": [
            [
                number[r.a],
                number[r.b],
                r.kind,
                _plain(r.score),
                {k: _plain(v) for k, v in r.evidence.items()},
            ]
            for r in _kept(pairs, number, taxonomy.joint_relation, doubtful)
        ],
        "crops": {number[c]: [_thumb(p) for p in pictures[:CROPS]] for c, pictures in crops.items() if c in number},
    }


def _kept(
    pairs: Sequence[ClassPair],
    number: Mapping[ClassKey, int],
    relation: np.ndarray,
    doubtful: Sequence[tuple[ClassKey, Sequence[ClassKey]]],
) -> list[ClassPair]:
    """Return all relations within a node, of each class those of the highest scores to others, and all to review."""
    asked = {pair_key(about, other) for about, others in doubtful for other in others}
    known = [r for r in pairs if r.a in number and r.b in number]
    inside = [pair_key(r.a, r.b) in asked or bool((relation[number[r.a]] & relation[number[r.b]]).any()) for r in known]
    count: dict[ClassKey, int] = {}
    out = [r for r, within in zip(known, inside, strict=True) if within]
    outside = (r for r, within in zip(known, inside, strict=True) if not within and r.kind != "unrelated")
    for r in sorted(outside, key=lambda r: -r.score):
        if min(count.get(r.a, 0), count.get(r.b, 0)) < OUTSIDE:
            out.append(r)
            count[r.a], count[r.b] = count.get(r.a, 0) + 1, count.get(r.b, 0) + 1
    return out


def _plain(value: float | str) -> float | str | None:
    """Round a number for the page; a number that is not finite becomes null."""
    if isinstance(value, str):
        return value
    return round(float(value), 3) if math.isfinite(value) else None


def _thumb(pixels: UInt8[np.ndarray, "_ _ 3"]) -> str:
    picture = Image.fromarray(np.asarray(pixels))
    picture.thumbnail((THUMB, THUMB))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
