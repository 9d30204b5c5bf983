"""What a person decided about pairs of classes: a small TOML file that outlives every re-run.

must = ["street:rider = park:cyclist"]
must_not = ["street:wall = park:wall"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manyseg.errors import UserError
from manyseg.labels import LabelSpace

__all__ = ["Pins"]

Label = tuple[str, str]


@dataclass(frozen=True)
class Pins:
    """Pairs of (dataset, class) that `must` be one node, and that `must_not` share any."""

    must: tuple[tuple[Label, Label], ...] = ()
    must_not: tuple[tuple[Label, Label], ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> Pins:
        """Read the TOML file; raises UserError naming the file and the entry that is wrong."""
        try:
            table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such file of pinned pairs") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise UserError(f'{path}: not a TOML file ({e}); write lines like must = ["a:car = b:auto"]') from None
        if unknown := set(table) - {"must", "must_not"}:
            raise UserError(f"{path}: unknown key '{min(unknown)}'; the keys are must and must_not")
        pairs = {}
        for key in ("must", "must_not"):
            entries = table.get(key, [])
            if not isinstance(entries, list):
                raise UserError(f"{path}: '{key}' is not a list; write {key} = [\"a:car = b:auto\"]")
            pairs[key] = tuple(_pair(path, key, e) for e in entries)
        return cls(**pairs)

    def check(self, spaces: Sequence[LabelSpace]) -> None:
        """Raise UserError where a pin names no class of the spaces, or two classes of one dataset must be one."""
        known = {(s.name, n) for s in spaces for n in s.names}
        for key, pairs in (("must", self.must), ("must_not", self.must_not)):
            for pair in pairs:
                for dataset, label in pair:
                    if (dataset, label) not in known:
                        raise UserError(f"{key}: there is no class '{label}' in a dataset '{dataset}'; correct the pin")
        for (a, x), (b, y) in self.must:
            if a == b:
                raise UserError(f"must: '{x}' and '{y}' are both of '{a}', so they differ; remove the pin")


def _pair(path: str | Path, key: str, entry: object) -> tuple[Label, Label]:
    sides = [s.strip() for s in entry.split(" = ")] if isinstance(entry, str) else []
    if len(sides) != 2 or not all(d.strip() and c.strip() for d, _, c in (s.partition(":") for s in sides)):
        raise UserError(f'{path}: {key} has {entry!r}; write it as "dataset:class = dataset:class"')
    (a, _, x), (b, _, y) = (s.partition(":") for s in sides)
    return (a.strip(), x.strip()), (b.strip(), y.strip())
