"""The colours of a taxonomy: one for every node, and so one for every concept of its datasets.

Axes: D classes of one dataset, U unified nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from manyseg.labels.colors import Color, assign_colors, standard_color
from manyseg.labels.names import normalise

if TYPE_CHECKING:
    from manyseg.labels.spaces import LabelClass
    from manyseg.labels.taxonomy import Taxonomy

__all__ = ["node_colors"]


def node_colors(taxonomy: Taxonomy) -> Mapping[str, Color]:
    """Return the colour of every node by its name, and then those of normalised names.

    A node has the first colour that a card states of a class of this node alone, else that of its own name, else that
    of the name of such a class. Nodes that no dataset tells apart may have one colour, if they have one name.
    """
    known: dict[str, Color] = {}
    for space in taxonomy.spaces:
        for c in space.classes:
            if c.color is not None:
                known.setdefault(normalise(c.name), c.color)
    alone: list[list[LabelClass]] = [[] for _ in taxonomy.unified.names]
    for space in taxonomy.spaces:
        for c, row in zip(space.classes, taxonomy.relations[space.name], strict=True):
            if row.sum() == 1:
                alone[int(row.argmax())].append(c)
    stated = [next((c.color for c in classes if c.color is not None), None) for classes in alone]
    names = [
        next((n for n in (node, *(c.name for c in classes)) if normalise(n) in known or standard_color(n)), node)
        for node, classes in zip(taxonomy.unified.names, alone, strict=True)
    ]
    has = {name: np.asarray(relation.any(0)) for name, relation in taxonomy.relations.items()}

    def told_apart(u: int) -> np.ndarray:
        """Say which nodes differ from node u in a dataset: it has classes of both, and none of them is of both."""
        out = np.zeros(len(names), bool)
        for name, relation in taxonomy.relations.items():
            if has[name][u]:
                out |= has[name] & ~relation[relation[:, u]].any(0)
        return out

    colors = assign_colors(names, stated, known, told_apart)
    out: dict[str, Color] = {n: (r, g, b) for n, (r, g, b) in zip(taxonomy.unified.names, colors.tolist(), strict=True)}
    for node in taxonomy.unified.names:
        known.setdefault(normalise(node), out[node])
    return known | out
