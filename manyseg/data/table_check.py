"""Tables of classes that lie beside masks, compared with the card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from manyseg.data import locate, pattern
from manyseg.data.class_tables import TableRow, class_tables
from manyseg.data.encodings import Raw
from manyseg.data.files import names_in
from manyseg.data.finding import Finding
from manyseg.data.folder import Folder
from manyseg.labels import normalise

__all__ = ["beside", "compared_tables"]

SHOWN = 5
"""Values that a finding lists."""


def compared_tables(folder: Folder) -> Iterator[Finding]:
    """Say where a table of classes calls a value of the masks by the name of another class of the card.

    Read are tables in the folder of the masks and in those above it, up to the dataset's root. Names that are none of
    the card's say nothing: cards may call classes as they like.
    """
    card, said = folder.card, folder.card.raw_values.said
    if card.mask is None:
        return
    own = {normalise(s.name) for s in said.values()}
    for table in class_tables(folder.root, beside(folder)):
        colored = card.reader.values == "color"
        # Lines without numbers may be counted from 0 or from 1.
        rows: Mapping[Raw, TableRow] = (
            table.by_color() if colored else {r.number: r for r in table.rows if r.number is not None}
        )
        wrong = [
            f"{value} is '{rows[value].name}' there, '{s.name}' in the card"
            for value, s in said.items()
            if value in rows and normalise(rows[value].name) in own - {normalise(s.name)}
        ]
        if wrong:
            what = f"a table of classes and the card call values by each other's names ({len(wrong)})"
            fix = "correct the values in the card, or remove the table if it is of other masks"
            more = ", ..." if len(wrong) > SHOWN else ""
            yield Finding("warning", what, str(folder.root / table.file), fix, ", ".join(wrong[:SHOWN]) + more)


def beside(folder: Folder) -> Iterator[str]:
    """Yield the files in the folder of the masks and in those above it, as paths from the dataset's root on."""
    split = folder.card.splits[folder.card.whole(folder.split)]
    masks = locate.fixed_folder(pattern.fill(folder.card.mask or "", {"split": split}))
    for place in (PurePosixPath(masks), *PurePosixPath(masks).parents):
        base = "" if place == PurePosixPath() else f"{place}/"
        yield from (base + name for name in names_in(folder.root / place))
