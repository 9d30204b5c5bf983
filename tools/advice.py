"""Which messages advise something that no test follows.

    python tools/advice.py
    python tools/advice.py tests/serve tests/models

Runs the tests that follow advice: those with "advi" in their names or in those of their files (tests/advice.py).
Lists the places of the package that make a `UserError`, or the server's `RequestError`, at which none of these tests
got one. `tools/unfollowed.tsv` has the places that cannot be reached on every machine, or say nothing to be done, with
the reason. Ends with an error if others are left. docs/results.md has the counts.
"""

from __future__ import annotations

import argparse
import ast
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent

BASES = frozenset({"UserError", "RequestError"})


class Place(NamedTuple):
    """Lines of a file in which an error is made, and the code that makes it."""

    file: str
    first: int
    last: int
    code: str


def places() -> list[Place]:
    """Find where the package makes errors that a user reads, in the order of files."""
    trees = {p: ast.parse(p.read_text(encoding="utf-8")) for p in sorted((ROOT / "manyseg").rglob("*.py"))}
    classes = [n for tree in trees.values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    kinds = {c.name for c in classes if any(_name(b) in BASES for b in c.bases)} | BASES
    found = []
    for path, tree in trees.items():
        calls = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and _name(n.func) in kinds)
        file = path.relative_to(ROOT).as_posix()
        found += sorted(Place(file, c.lineno, c.end_lineno or c.lineno, ast.unparse(c)) for c in calls)
    return found


def _name(node: ast.expr) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


class Recorder:
    """A plugin of pytest that writes down where errors were made, a line each: file, line."""

    def __init__(self, out: Path) -> None:
        self.out, self.seen = out, set[tuple[str, int]]()

    def pytest_sessionstart(self) -> None:
        """Watch errors from now on, when the tests have said how the package is to be loaded."""
        from manyseg.errors import UserError

        self._watch(UserError)
        try:
            from manyseg.serve.images import RequestError
        except ImportError:  # Without the extra that serves.
            return
        self._watch(RequestError)

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        self.out.write_text("".join(f"{file}\t{line}\n" for file, line in sorted(self.seen)), encoding="utf-8")

    def _watch(self, kind: Any) -> None:
        made = kind.__init__

        def record(error: Exception, *given: Any, **named: Any) -> None:
            frames = (f for f in _callers() if f.f_code.co_filename.startswith(str(ROOT / "manyseg")))
            frame = next((f for f in frames if f.f_locals.get("self") is not error), None)
            if frame is not None:
                self.seen.add((Path(frame.f_code.co_filename).relative_to(ROOT).as_posix(), frame.f_lineno))
            made(error, *given, **named)

        kind.__init__ = record


def _callers() -> Iterator[Any]:
    frame = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back


def main() -> None:
    """Run the tests, and print the places that none of them reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", default=["tests"], help="Files or folders of tests; by default all.")
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.record:
        import pytest

        sys.exit(pytest.main(["-q", "-n", "0", "-k", "advi", *given.tests], plugins=[Recorder(given.record)]))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "made.tsv"
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        # In a process of its own, into which the package is not loaded before its shapes are to be checked.
        command = [sys.executable, __file__, "--record", str(out), *given.tests]
        failed = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}).returncode
        rows = [line.split("\t") for line in out.read_text(encoding="utf-8").splitlines()]
    made = {(file, int(line)) for file, line in rows}
    with (ROOT / "tools/unfollowed.tsv").open(encoding="utf-8", newline="") as file:
        known = [(row["file"], row["part"]) for row in csv.DictReader(file, delimiter="\t")]
    all_places = places()
    left = [p for p in all_places if not any((p.file, n) in made for n in range(p.first, p.last + 1))]
    excused = [p for p in left if any(p.file == file and part in p.code for file, part in known)]
    for p in left:
        if p not in excused:
            print(f"{p.file}:{p.first}: {p.code}")
    followed = len(all_places) - len(left)
    print(f"{followed} of {len(all_places)} places are followed, {len(excused)} are in unfollowed.tsv")
    if failed or len(left) > len(excused):
        sys.exit(1)


if __name__ == "__main__":
    main()
