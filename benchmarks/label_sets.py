"""Plain class names of six fields against relations made by hand: benchmarks/label_sets/*.tsv, a taxonomy each.

    python benchmarks/label_sets.py [text|names]          needs the extra `offline`

The tables were made by hand, from general knowledge of what such data sets label; no card has a description. Three of
the fields were looked at while the proposal was developed, three only when it was done, and five once the lexicon had
grown. Scored are the pairs of classes
that share a node.
"""

from __future__ import annotations

import sys
from pathlib import Path

from manyseg.labels import LabelSpace, Taxonomy
from manyseg.models.text import TextEncoder
from manyseg.relate import agreement, propose
from manyseg.textfile import read_table, read_text

GROUPS = {
    "looked at": ("land_cover", "off_road", "human_parsing"),
    "held out": ("indoor", "food", "surgery"),
    "held out, later": ("construction_site", "underwater", "farm", "waste", "kitchen"),
}


def read(path):
    """Read the label spaces of a table, and its taxonomy: a row is a node, with its class of each dataset."""
    (_, (_, *datasets)), *rows = read_table(read_text(path))
    cells = [(row + [""] * len(datasets))[1 : len(datasets) + 1] for _, row in rows]
    names = [dict.fromkeys(c[i] for c in cells if c[i]) for i in range(len(datasets))]
    spaces = [LabelSpace.of(d, n) for d, n in zip(datasets, names, strict=True)]
    return spaces, Taxonomy.read(path, spaces)


def main(by="text", *fields):
    encode = TextEncoder().encode
    print(f"{'by ' + by:18} classes precision recall     F1")
    for title, group in GROUPS.items():
        found = []
        for field in fields or group:
            spaces, hand = read(Path(__file__).parent / "label_sets" / f"{field}.tsv")
            a = agreement(propose(spaces, by=by, encode=encode).taxonomy, hand)
            found.append(a.f1)
            size = sum(map(len, spaces))
            print(f"{field:18} {size:7d} {a.precision:9.2f} {a.recall:6.2f} {a.f1:6.2f}", flush=True)
        if fields:
            break
        print(f"{title + ', mean':43} {sum(found) / len(found):6.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
