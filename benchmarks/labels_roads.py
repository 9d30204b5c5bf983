"""The proposed label space of three real street datasets against the one made by hand, taxonomies/roads.tsv.

    python benchmarks/labels_roads.py [RUN]          needs MANYSEG_DATA/roads and the extra `offline`

Without RUN the labels are related by names and by text, with the cards' descriptions and (plain) without. With the run
of a model of the same datasets also by the confusions of its heads on the held-out splits, and by both. Compared are
pairs of classes that share a node.
"""

from __future__ import annotations

import sys
from pathlib import Path

from manyseg.evaluation.evaluate import collect
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.models.text import TextEncoder
from manyseg.relate import agreement, propose
from manyseg.relate.statistics import UNIFIED
from manyseg.runs.recipe import read_recipe
from manyseg.runs.run import Run

ROOT = Path(__file__).parents[1]


def main(run: str | None = None) -> None:
    recipe = read_recipe(ROOT / "recipes" / "roads" / "manual.toml")
    folders = [s.open_eval(recipe.base) for s in recipe.data.sets]
    spaces = tuple(f.space for f in folders)
    hand = Taxonomy.read(ROOT / "taxonomies" / "roads.tsv", spaces)
    counts = None
    if run is not None:
        found = collect(Run.open(run).load_model(), folders).counts
        counts = {(a, b): n for (a, b), n in found.items() if b != UNIFIED}
    print(f"{'by':12} nodes precision recall     F1     (by hand: {len(hand.unified)} nodes)")
    plain = tuple(LabelSpace.of(s.name, s.names) for s in spaces)
    tries = [("names", spaces), ("text", spaces), ("text, plain", plain)]
    for title, given in tries + [(by, spaces) for by in ("confusion", "both") if counts]:
        proposal = propose(given, by=title.split(",")[0], encode=TextEncoder().encode, confusion=counts)
        a = agreement(proposal.taxonomy, hand)
        print(
            f"{title:12} {len(proposal.taxonomy.unified):5d} {a.precision:9.2f} {a.recall:6.2f} {a.f1:6.2f}", flush=True
        )


if __name__ == "__main__":
    main(*sys.argv[1:2])
