"""What a person decided about pairs of classes: a small TOML file, which every later proposal keeps.

must_link = ["street:rider = park:cyclist"]
cannot_link = ["street:wall = park:wall"]
part_of = ["street:crosswalk < park:road"]
unsure = ["street:bank = park:bank"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from manyseg.config import read_toml, toml_value
from manyseg.errors import UserError, close
from manyseg.labels import ClassKey, JointClasses, LabelSpace

__all__ = ["Constraints"]

ClassPairs = tuple[tuple[ClassKey, ClassKey], ...]

KEYS = {"must_link": "=", "cannot_link": "=", "part_of": "<", "unsure": "="}
"""The kinds of decisions, and what stands between the two classes of each entry."""

RENAMED = {"must": "must_link", "must_not": "cannot_link"}
"""Keys of files that were written for an earlier version."""


@dataclass(frozen=True)
class Constraints:
    """Pairs of (dataset, class), by what a person said of them.

    `must_link`: they are one unified node. `cannot_link`: they share no node. `part_of`: the first lies within the
    second and is not all of it. `unsure`: nobody knows, so that nothing follows, and nobody is asked again.
    """

    must_link: ClassPairs = ()
    cannot_link: ClassPairs = ()
    part_of: ClassPairs = ()
    unsure: ClassPairs = ()

    @classmethod
    def read(cls, path: str | Path, spaces: Sequence[LabelSpace]) -> Constraints:
        """Read the TOML file about classes of `spaces`; raises UserError naming the file and the faulty entry."""
        table = read_toml(Path(path))
        if old := sorted(RENAMED.keys() & table.keys()):
            raise UserError(f"{path}: the key '{old[0]}' is now called '{RENAMED[old[0]]}'; rename it")
        if unknown := sorted(table.keys() - set(KEYS)):
            raise UserError(f"{path}: unknown key '{unknown[0]}'; the keys are {', '.join(KEYS)}")
        # Names may hold ":" and "=", so an entry is compared with what is known rather than cut at these.
        known: dict[str, list[ClassKey]] = {}
        for key in JointClasses(tuple(spaces)).keys:
            known.setdefault(":".join(key), []).append(key)
        pairs = {}
        for name, sign in KEYS.items():
            entries = table.get(name, [])
            if not isinstance(entries, list):
                raise UserError(f"{path}: '{name}' is not a list; write {name} = [\"a:car {sign} b:auto\"]")
            pairs[name] = tuple(_pair(f"{path}: {name}", entry, known, sign) for entry in entries)
        return cls(**pairs)

    def check(self, spaces: Sequence[LabelSpace]) -> None:
        """Raise UserError where a pair names no class of the spaces, or links two classes of one dataset."""
        known = JointClasses(tuple(spaces)).positions
        for name in KEYS:
            for dataset, label in (key for pair in getattr(self, name) for key in pair):
                if (dataset, label) not in known:
                    raise UserError(f"{name}: there is no class '{label}' in a dataset '{dataset}'; correct the entry")
        for name in ("must_link", "part_of"):
            for (a, x), (b, y) in getattr(self, name):
                if a == b:
                    raise UserError(f"{name}: '{x}' and '{y}' are both of '{a}', so they differ; remove the entry")

    def joined(self, other: Constraints) -> Constraints:
        """Return these, and those of `other` about pairs that these say nothing of."""
        more = other.without(self)
        return Constraints(**{name: getattr(self, name) + getattr(more, name) for name in KEYS})

    def without(self, other: Constraints) -> Constraints:
        """Return these but for the pairs that `other` says something of."""
        said = {frozenset(pair) for name in KEYS for pair in getattr(other, name)}
        return Constraints(**{n: tuple(p for p in getattr(self, n) if frozenset(p) not in said) for n in KEYS})

    def to_toml(self) -> str:
        """Render the file that `read` reads: one entry a line."""
        lines = []
        for name, sign in KEYS.items():
            entries = [toml_value(f"{':'.join(a)} {sign} {':'.join(b)}") for a, b in getattr(self, name)]
            lines += [f"{name} = [", *(f"    {entry}," for entry in entries), "]"] if entries else [f"{name} = []"]
        return "\n".join(lines) + "\n"


def _pair(place: str, entry: object, known: Mapping[str, Sequence[ClassKey]], sign: str) -> tuple[ClassKey, ClassKey]:
    text = entry if isinstance(entry, str) else ""
    sides = [(text[:i].strip(), text[i + 1 :].strip()) for i, c in enumerate(text) if c == sign]
    if not any(":" in left and ":" in right for left, right in sides):
        raise UserError(f'{place} has {entry!r}; write it as "dataset:class {sign} dataset:class"')
    readings = [(a, b) for left, right in sides for a in known.get(left, ()) for b in known.get(right, ())]
    if not readings:
        unknown = [side for pair in sides for side in pair if ":" in side and side not in known]
        meant = close(unknown[0], [*known])
        raise UserError(
            f"{place}: '{text}' names no two classes; there is no '{unknown[0]}' among the datasets' classes{meant}"
        )
    if len(readings) > 1:
        ways = " or ".join(f"{a} with {b}" for a, b in readings)
        raise UserError(f"{place}: '{text}' can mean {ways}; rename a class or a dataset in its card")
    return readings[0]
