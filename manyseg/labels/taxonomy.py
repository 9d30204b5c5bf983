"""The taxonomy: which unified nodes each class of each dataset may be, and its table.

Axes: D classes of one dataset, T classes of all, U unified nodes. A relation is `Bool[D, U]`, true where class d may be
node u.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from manyseg import atomic
from manyseg.errors import UserError, close
from manyseg.labels.colors import Color, assign_colors
from manyseg.labels.joint import JointClasses
from manyseg.labels.names import name_groups, node_names, normalise
from manyseg.labels.palette import node_colors
from manyseg.labels.spaces import SEPARATOR, ClassKey, LabelClass, LabelSpace
from manyseg.textfile import read_table, read_text, table_text

if TYPE_CHECKING:
    from jaxtyping import Bool

__all__ = ["Relation", "Taxonomy", "check_datasets"]

Relation: TypeAlias = "Bool[np.ndarray, 'D U']"


def check_datasets(spaces: Sequence[LabelSpace], unified: str = "unified") -> None:
    """Raise UserError where there is no label space, and where two have one name or one is called `unified`."""
    if not spaces:
        raise UserError("a taxonomy needs at least one dataset's label space")
    names = [s.name for s in spaces]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise UserError(f"two datasets are called '{twice[0]}'; give one of the cards another name")
    if unified in names:
        raise UserError(f"a dataset is called '{unified}', as all of them together are; rename its card")


@dataclass(frozen=True)
class Taxonomy:
    """A unified label space and, for every dataset, which of its nodes each class may be.

    `spaces` are the datasets' own label spaces; `relations[space.name]` is Bool[D, U].
    Checked on construction: every class has a node, every node belongs to a class, shapes fit, names are unique.
    Manual, merged, disjoint, mined and learned taxonomies are all this type, and the same table on disk.
    """

    unified: LabelSpace
    spaces: tuple[LabelSpace, ...]
    relations: Mapping[str, Relation] = field(repr=False)

    def __post_init__(self) -> None:
        check_datasets(self.spaces, self.unified.name)
        names = [s.name for s in self.spaces]
        if set(names) != set(self.relations):
            raise UserError(f"taxonomy relates {sorted(self.relations)} but its datasets are {sorted(names)}")
        used = np.zeros(len(self.unified), bool)
        for space in self.spaces:
            relation = self.relations[space.name]
            if relation.shape != (len(space), len(self.unified)) or relation.dtype != np.bool_:
                raise UserError(
                    f"relation of '{space.name}' is {relation.dtype}{list(relation.shape)}, "
                    f"expected bool{[len(space), len(self.unified)]}"
                )
            bare = [n for n, row in zip(space.names, relation, strict=True) if not row.any()]
            if bare:
                raise UserError(
                    f"{len(bare)} of {len(space)} classes of '{space.name}' have no unified node "
                    f"({', '.join(bare[:5])}); add each to a row of the taxonomy"
                )
            used |= relation.any(0)
        if not used.all():
            idle = [n for n, u in zip(self.unified.names, used, strict=True) if not u]
            raise UserError(f"{len(idle)} unified nodes belong to no class ({', '.join(idle[:5])}); remove their rows")

    def space(self, name: str) -> LabelSpace:
        """Return the label space called `name`: a dataset's, or "unified"."""
        for space in (*self.spaces, self.unified):
            if space.name == name:
                return space
        known = [s.name for s in (*self.spaces, self.unified)]
        raise UserError(f"no label space is called '{name}'{close(name, known)}; there are: {', '.join(known)}")

    def position(self, space: LabelSpace) -> int:
        """Return which dataset's label space this is; raises UserError, which says what differs, for any other."""
        if space in self.spaces:
            return self.spaces.index(space)
        known = {s.name: s for s in (*self.spaces, self.unified)}
        names, meant = ", ".join([*(s.name for s in self.spaces), "unified"]), close(space.name, [*known])
        fault, own = f"is no label space of this model{meant} ({names})", "one of these"
        if space.name in known:
            differs = space.difference(known[space.name])
            fault, own = f"is not the label space of this model that has its name: {differs}", "the model's own"
        way = f"take {own}, taxonomy.space(name), or give a relation too (manyseg.relate.unseen.relate_by_names)"
        raise UserError(f"'{space.name}' {fault}; {way}")

    def exclusive(self, name: str) -> bool:
        """Say whether every node belongs to at most one class of dataset `name`."""
        return bool((self.relations[name].sum(0) <= 1).all())

    def members(self, node: int) -> list[ClassKey]:
        """List every class that may be unified node `node`, in the order of datasets and classes."""
        return list(self._members[node])

    @cached_property
    def classes(self) -> JointClasses:
        """The classes of all datasets as one list, which is the order of the rows of `joint_relation`."""
        return JointClasses(self.spaces)

    @cached_property
    def joint_relation(self) -> Bool[np.ndarray, "T U"]:
        """The relations of all datasets, one below the other."""
        return np.concatenate([self.relations[s.name] for s in self.spaces])

    @property
    def shared(self) -> int:
        """The number of nodes that have classes of several datasets."""
        return sum(len({dataset for dataset, _ in members}) > 1 for members in self._members)

    @property
    def undivided(self) -> list[str]:
        """The datasets of several classes that are all one node: their labels tell nothing apart."""
        rows = ((space.name, self.relations[space.name]) for space in self.spaces if len(space) > 1)
        return [name for name, relation in rows if relation.any(0).sum() == 1]

    def painted(self, space: LabelSpace) -> LabelSpace:
        """Return `space` with the colour of every class stated, so that one concept has one colour in all pictures.

        `space` is a dataset's, the unified one, or any other. A colour that the space itself states stays. A class of
        one node has the node's colour, of several such classes that of the node's name, or else the first. Any other
        class has the colour of its name here, or one far from those of its space.
        """
        stated: list[Color | None] = [c.color for c in space.classes]
        if space == self.unified:
            stated = [self._colors[name] for name in space.names]
        elif space in self.spaces:
            relation = self.relations[space.name]
            one_node = relation.sum(1) == 1
            for u in np.flatnonzero(relation.any(0)).tolist():
                node = self.unified.names[u]
                alone = np.flatnonzero(relation[:, u] & one_node).tolist()
                alone.sort(key=lambda d: normalise(space.names[d]) != normalise(node))
                if alone and not any(stated[d] for d in alone):
                    stated[alone[0]] = self._colors[node]
        colors = assign_colors(space.names, stated, self._colors)
        classes = (replace(c, color=tuple(v)) for c, v in zip(space.classes, colors.tolist(), strict=True))
        return LabelSpace(space.name, tuple(classes))

    @cached_property
    def _colors(self) -> Mapping[str, Color]:
        return node_colors(self)

    @cached_property
    def _members(self) -> tuple[tuple[ClassKey, ...], ...]:
        found: list[list[ClassKey]] = [[] for _ in self.unified.names]
        for space in self.spaces:
            for d, u in zip(*(axis.tolist() for axis in np.nonzero(self.relations[space.name])), strict=True):
                found[u].append((space.name, space.names[d]))
        return tuple(map(tuple, found))

    # Builders.

    @classmethod
    def disjoint(cls, spaces: Sequence[LabelSpace]) -> Taxonomy:
        """Give every class of every dataset a node of its own (multi-head)."""
        return cls.from_groups(spaces, [[(s.name, n)] for s in spaces for n in s.names])

    @classmethod
    def by_name(cls, spaces: Sequence[LabelSpace], *, exact: bool = False) -> Taxonomy:
        """Unite classes of equal name, `exact` or by all their names as `names.name_groups` compares them."""
        return cls.from_groups(spaces, name_groups(spaces, exact=exact))

    @classmethod
    def from_groups(
        cls,
        spaces: Sequence[LabelSpace],
        groups: Sequence[Sequence[ClassKey]],
        names: Sequence[str] | None = None,
    ) -> Taxonomy:
        """Build from nodes given as lists of (dataset, class); they are called `names`, or else by `node_names`."""
        relations = {s.name: np.zeros((len(s), len(groups)), bool) for s in spaces}
        by_name = {s.name: s for s in spaces}
        for u, group in enumerate(groups):
            for dataset, label in group:
                if dataset not in by_name or label not in by_name[dataset].positions:
                    raise UserError(f"there is no class '{label}' in a dataset '{dataset}'; check the taxonomy")
                relations[dataset][by_name[dataset].positions[label], u] = True
        classes = _node_classes(by_name, groups, node_names(groups) if names is None else names)
        return cls(LabelSpace("unified", classes), tuple(spaces), relations)

    # The table.

    def write(self, path: str | Path) -> None:
        """Write the table that `read` reads: one row a node, then one column a dataset."""
        atomic.write(path, self.to_tsv())

    def to_tsv(self) -> str:
        """Render the table: first column `unified`, then a column a dataset, several classes joined with `|`."""
        rows = [["unified", *(s.name for s in self.spaces)]]
        for node, members in zip(self.unified.names, self._members, strict=True):
            cells: dict[str, list[str]] = {s.name: [] for s in self.spaces}
            for dataset, name in members:
                cells[dataset].append(name)
            rows.append([node, *map(SEPARATOR.join, cells.values())])
        return table_text(rows)

    @classmethod
    def read(cls, path: str | Path, spaces: Sequence[LabelSpace]) -> Taxonomy:
        """Read a table written by `write`, a spreadsheet, or MSeg's master table, for the given datasets.

        Columns of other datasets are skipped, as are rows that then name no class. MSeg's dialect is understood: a
        `universal` first column, column names with a `-<version>` suffix, cells like `{person, rider}`, and a row
        `unlabeled`. Raises `UserError` naming file, row and column.
        """
        path = Path(path)
        try:
            rows = list(read_table(read_text(path)))
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such taxonomy file; correct its name") from None
        except UnicodeDecodeError as e:
            raise UserError(f"{path}: not UTF-8 text (byte {e.start}); save the table as UTF-8 TSV") from None
        except (OSError, ValueError, csv.Error) as e:
            raise UserError(f"{path}: cannot be read as a table ({e}); save it as UTF-8 TSV") from None
        return cls.from_groups(spaces, *_parse(path, rows, spaces))


def _node_classes(
    spaces: Mapping[str, LabelSpace], groups: Sequence[Sequence[ClassKey]], names: Sequence[str]
) -> tuple[LabelClass, ...]:
    """Describe the nodes: things where any member is one.

    Any, not all: a card of masks without instances calls nothing a thing, which says nothing about the class.
    """
    out = []
    for name, group in zip(names, groups, strict=True):
        members = [spaces[d].classes[spaces[d].positions[n]] for d, n in group]
        out.append(LabelClass(name, thing=any(m.thing for m in members)))
    return tuple(out)


def _parse(
    path: Path, rows: Sequence[tuple[int, list[str]]], spaces: Sequence[LabelSpace]
) -> tuple[list[list[ClassKey]], list[str]]:
    header = rows[0][1] if rows else [""]
    if header[0] not in ("unified", "universal"):
        raise UserError(f"{path}: the first row must start with 'unified', then name one dataset a column")
    columns = {s.name: _column(header, s.name) for s in spaces}
    for name, column in columns.items():
        if column is None:
            raise UserError(f"{path}: no column for dataset '{name}'; the columns are: {', '.join(header[1:])}")
    groups: list[list[ClassKey]] = []
    names: dict[str, int] = {}
    for number, row in rows[1:]:
        node = row[0]
        if header[0] == "universal" and node == "unlabeled":
            continue
        if not node:
            raise UserError(f"{path}, row {number}: the node has no name; fill the first column")
        if node in names:
            raise UserError(
                f"{path}, row {number}: node '{node}' is named in row {names[node]} too; join the rows or rename one"
            )
        group = []
        for space in spaces:
            column = columns[space.name]
            assert column is not None
            for label in _cell(row[column] if column < len(row) else "", braces=header[0] == "universal"):
                if label not in space.positions:
                    raise UserError(
                        f"{path}, row {number}, column '{header[column]}': '{label}' is not a class of "
                        f"'{space.name}'{close(label, space.names)}; its classes are: "
                        f"{', '.join(space.names[:8])}{' ...' * (len(space) > 8)}"
                    )
                group.append((space.name, label))
        if group:
            groups.append(group)
            names[node] = number
    if not groups:
        raise UserError(f"{path}: no row names a class of {', '.join(s.name for s in spaces)}; fill their columns")
    return groups, list(names)


def _column(header: Sequence[str], name: str) -> int | None:
    """Find the column titled `name`, or the only one titled `name-<version>` (MSeg: `street-public65`)."""
    if name in header[1:]:
        return header.index(name, 1)
    versions = [i for i, title in enumerate(header) if i and title.startswith(name + "-")]
    return versions[0] if len(versions) == 1 else None


def _cell(text: str, *, braces: bool) -> list[str]:
    """List the classes that a cell names; in MSeg's dialect they are in `braces`."""
    if braces and text.startswith("{") and text.endswith("}"):
        return [p.strip() for p in text[1:-1].split(",") if p.strip()]
    return [p.strip() for p in text.split(SEPARATOR) if p.strip()]
