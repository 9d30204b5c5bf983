"""What a check finds in a dataset: a fault or a decision, where, how often, and what to do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from manyseg.data.files import DataError
from manyseg.errors import UserError

__all__ = ["Finding", "Severity", "kind", "merged", "of_error"]

Severity = Literal["error", "note", "warning"]
"""An error is to be corrected; a warning may be meant; a note says which decision of ours applies to these files."""

ORDER = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One fault of a dataset, in one or more files.

    `where` is the first file (or the split), `place` where in it (an object, a field and its value), `files` how many
    files have the same fault and `places` how many places in them; `value` is the raw value or class at fault if there
    is one, `count` its pixels in all files (0 where pixels are not what is wrong).
    """

    severity: Severity
    what: str
    where: str
    fix: str
    value: str | None = None
    count: int = 0
    files: int = 1
    place: str = ""
    places: int = 1

    def __str__(self) -> str:
        value = "" if self.value is None else f": {self.value}"
        count = f" on {self.count} pixels" if self.count else ""
        more = f" (and {self.places - 1} more places)" if self.places > self.files else ""
        more = f" (and {self.files - 1} more files)" if self.files > 1 else more
        place = f"{self.place}: " if self.place else ""
        return f"{self.severity}: {self.where}{more}: {place}{self.what}{value}{count}; {self.fix}"


def kind(what: str) -> str:
    """Return what the same fault has in common everywhere: numbers and what is in brackets may differ."""
    return re.sub(r"\([^()]*\)|\d+", "", what)


def of_error(error: UserError, where: str) -> Iterator[Finding]:
    """Say what an error says, one finding a fault; `where` is for errors that name no file."""
    if not isinstance(error, DataError):
        what, _, fix = str(error).rpartition("; ")
        yield Finding("error", what or fix, where, fix)
        return
    for fault in (error, *error.others):
        first = Finding("error", fault.what, fault.file, fault.fix, place=fault.place)
        if fault.values:
            yield from (replace(first, value=f"value {value}", count=count) for value, count in fault.values)
        else:
            yield first


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Join the same fault of many files, errors first."""
    groups: dict[tuple[str, ...], list[Finding]] = defaultdict(list)
    for f in findings:
        groups[f.severity, kind(f.what), f.value or ""].append(f)
    out = []
    for group in groups.values():
        group = list(dict.fromkeys(group))
        files, places = len({f.where for f in group}), sum(f.places for f in group)
        out.append(replace(group[0], count=sum(f.count for f in group), files=files, places=places))
    return sorted(out, key=lambda f: (ORDER.index(f.severity), -f.files, -f.places))
