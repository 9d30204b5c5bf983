"""Mutation testing: change one thing in the heart of the package, and see whether a test notices.

    python tools/mutation.py --seed 0 --count 150

Draws single-point mutations (an operator, a constant, `min` for `max`, a `detach` left out, ...) and runs for each the
tests of its folder, those that import the module first, until one fails. Everything happens in a copy of the checkout,
in one process at a time. What survives is printed as a diff; `tools/equivalent.tsv` lists mutations that change no
behaviour, with the reason, and these do not count. docs/results.md has the score, docs/design.md says how to use it.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import csv
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from difflib import unified_diff
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent

HEART = ("labels", "relate", "losses", "methods", "inference")
"""The folders of the package that are mutated."""

PRELOADED = ("numpy", "scipy.optimize", "torch", "torchvision", "timm", "transformers", "accelerate", "pydantic")
"""Imported once, before a process is forked for each mutation."""

OPERATORS = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is": "is not", "is not": "is",
    "in": "not in", "not in": "in", "and": "or", "or": "and", "+": "-", "-": "+", "*": "/", "/": "*", "&": "|",
    "|": "&",
}  # fmt: skip

NAMES = ("min max", "mean sum", "any all", "argmax argmin", "amax amin", "maximum minimum", "zeros ones", "fmax fmin")
SWAPPED = {a: b for pair in NAMES for a, b in (pair.split(), pair.split()[::-1])}

REMOVED = ("detach", "clamp", "clip")
"""Methods whose call is left out."""

NO_BEHAVIOUR = ("strict", "repr", "non_blocking", "stacklevel", "memory_format", "options")
"""Keywords whose value changes nothing that a test could see."""


class Mutation(NamedTuple):
    """One change of one file."""

    path: str
    """Of the file, from the root of the checkout."""
    line: int
    before: str
    """The whole source."""
    after: str

    def lines(self) -> tuple[str, str]:
        """Return the first changed line, before and after, without indentation."""
        both = zip(self.before.splitlines(), self.after.splitlines(), strict=True)
        return next((a.strip(), b.strip()) for a, b in both if a != b)

    def diff(self) -> str:
        """Return the change as a diff."""
        found = unified_diff(self.before.splitlines(), self.after.splitlines(), self.path, self.path, "", "", 1, "")
        return "\n".join([*found][2:])


# Mutations.


def mutations(path: str, source: str) -> Iterator[Mutation]:
    """Find all mutations of a file, in order."""
    data = source.encode()
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def begin(node: ast.expr) -> int:
        return starts[node.lineno - 1] + node.col_offset

    def end(node: ast.expr) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return starts[node.end_lineno - 1] + node.end_col_offset

    def replaced(first: int, last: int, text: str) -> Mutation:
        line = data.count(b"\n", 0, first) + 1
        return Mutation(path, line, source, (data[:first] + text.encode() + data[last:]).decode())

    def operator(left: ast.expr, right: ast.expr) -> Iterator[Mutation]:
        between = data[end(left) : begin(right)].decode()
        found = between.strip(" \n()")
        if found in OPERATORS and between.count(found) == 1:
            first = end(left) + len(between[: between.index(found)].encode())
            yield replaced(first, first + len(found), OPERATORS[found])

    for node in _mutable(ast.parse(source)):
        if isinstance(node, ast.Compare):
            for left, right in pairwise([node.left, *node.comparators]):
                yield from operator(left, right)
        elif isinstance(node, ast.BoolOp):
            for left, right in pairwise(node.values):
                yield from operator(left, right)
        elif isinstance(node, ast.BinOp):
            yield from operator(node.left, node.right)
        elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
            yield replaced(begin(node), begin(node.operand), "")
        elif isinstance(node, ast.Constant):
            for value in _other_values(node.value):
                yield replaced(begin(node), end(node), value)
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in SWAPPED:
                yield replaced(end(node.func) - len(name), end(node.func), SWAPPED[name])
            if name in REMOVED and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) != "np":
                yield replaced(end(node.func.value), end(node), "")
        elif isinstance(node, ast.Slice):
            for bound in (node.lower, node.upper):
                if bound is not None:
                    yield replaced(begin(bound), end(bound), "")


def _other_values(value: object) -> list[str]:
    if isinstance(value, bool):
        return [str(not value)]
    if isinstance(value, int):
        return [str(value + 1), str(value - 1)] if value else ["1"]
    if isinstance(value, float):
        return [repr(value * 2), repr(value / 2)] if value else ["1.0"]
    return []


def _mutable(node: ast.AST) -> Iterator[ast.expr]:
    """Walk what is run and has an effect: no annotations, decorators, assertions, errors and warnings."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params", "format_spec"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr):
                continue
            if isinstance(child, ast.keyword) and child.arg in NO_BEHAVIOUR:
                continue
            if isinstance(child, ast.Call) and ast.unparse(child.func) in ("warnings.warn", "cast", "log.warning"):
                continue
            if isinstance(child, ast.expr | ast.Slice):
                yield child  # type: ignore[misc]
            yield from _mutable(child)


def draw(root: Path, seed: int, count: int) -> list[Mutation]:
    """Draw mutations of the heart, each as likely as any other; the first of more are the same."""
    every = [m for f in HEART for p in sorted((root / "manyseg" / f).rglob("*.py")) for m in _mutations_of(root, p)]
    order = random.Random(seed).sample(range(len(every)), len(every))
    chosen = list(islice((i for i in order if _is_python(every[i].after)), count))
    print(f"{len(chosen)} of {len(every)} mutations of {', '.join(HEART)}; seed {seed}", flush=True)
    return [every[i] for i in chosen]


def _mutations_of(root: Path, path: Path) -> Iterator[Mutation]:
    return mutations(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))


def _is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


# Tests.


def tests_of(root: Path, path: str) -> list[str]:
    """List the test files that should notice a change of a module.

    These are the tests of its folder that depend on it, by way of modules of the same folder, the most direct first;
    where there is none, the tests of other folders that import it. The page of all keys, which is compared with the
    types, holds the options' defaults.
    """
    module, folder = _module(Path(path)), path.split("/")[1]
    modules = {_module(p.relative_to(root)): _imports(p) for p in (root / "manyseg" / folder).rglob("*.py")}
    distance, reached = {module: 0}, [module]
    for name in reached:
        for other, imported in modules.items():
            if name in imported and other not in distance:
                distance[other] = distance[name] + 1
                reached.append(other)
    own, others = {}, []
    for file in sorted((root / "tests").rglob("test_*.py")):
        found = [distance[m] for m in _imports(file) if m in distance]
        name = file.relative_to(root).as_posix()
        if found and file.parent.name == folder:
            own[name] = min(found)
        elif 0 in found:
            others.append(name)
    options = ["tests/test_reference.py"] if "pydantic" in modules[module] else []
    return (sorted(own, key=own.__getitem__) or others) + options


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@cache
def _imports(path: Path) -> set[str]:
    out: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            out |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            out |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return out


class Recorder:
    """A plugin of pytest that notes what failed, runs exams last, and starts no test once `budget` seconds are used."""

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.failed: list[str] = []
        self.passed = 0

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Put the exams that all methods pass, which take long, behind the other tests of their file."""
        order = {path: i for i, path in enumerate(dict.fromkeys(item.path for item in items))}
        items.sort(key=lambda item: (order[item.path], "exam" in item.name))

    def pytest_runtest_setup(self, item: Any) -> None:
        """Stop in time."""
        if time.process_time() > self.budget:
            item.session.shouldstop = "no time is left"

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take note of a part of a test."""
        self.passed += report.when == "call" and report.passed
        if report.failed:
            self.failed.append(report.nodeid)


class Answer(NamedTuple):
    """How a run of tests ended."""

    passed: int
    failed: list[str]


def run_tests(root: Path, files: Sequence[str], budget: float) -> Answer:
    """Run test files in a forked process until one fails or `budget` seconds of the processor are used.

    A test that runs on for half the budget more has failed: it has met an endless loop.
    """
    answer = root / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        os.setsid()
        try:
            _child(root, answer, files, budget)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
    stop = time.monotonic() + 60 * budget
    while not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.02)
        if time.monotonic() > stop:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
    return Answer(**json.loads(answer.read_text())) if answer.exists() else Answer(0, ["the limit of time"])


def _child(root: Path, answer: Path, files: Sequence[str], budget: float) -> None:
    import pytest

    os.chdir(root)
    os.environ["PYTHONPATH"] = sys.path[0] = str(root)
    with (root / "output.txt").open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    begin = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(begin + 1.5 * budget) + 1, int(begin + 1.5 * budget) + 5))
    recorder = Recorder(begin + budget)
    # Some plugins of pytest were imported with the libraries before the fork.
    options = ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = int(pytest.main([*options, "--hypothesis-seed=0", *files], plugins=[recorder]))
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.INTERRUPTED) and not recorder.failed:
        recorder.failed.append("before any test")
    answer.write_text(json.dumps({"passed": recorder.passed, "failed": recorder.failed}))


# The run.


def main() -> None:
    """Mutate, test, and print what survived and the score."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=150, help="mutations to draw")
    parser.add_argument("--budget", type=float, default=40, help="seconds of the processor for each mutation")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the mutations to run, of those drawn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _run(_copy(Path(folder).resolve() / "copy"), options)


def _copy(root: Path) -> Path:
    """Copy what git knows of the checkout; compiled files are checked by content, as a mutation may keep the size."""
    known = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in known.splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    compileall.compile_dir(root / "manyseg", quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return root


def _run(root: Path, options: argparse.Namespace) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    for name in PRELOADED:
        __import__(name)
    numbered = enumerate(draw(root, options.seed, options.count))
    drawn = [(n, m) for n, m in numbered if options.only is None or n in options.only]
    files = {path: tests_of(root, path) for path in {m.path for _, m in drawn}}
    whole = run_tests(root, sorted({f for found in files.values() for f in found}), options.budget)
    if whole.failed:
        sys.exit(f"tests fail without a mutation: {whole.failed}\n{_tail(root)}")
    print(f"{whole.passed} tests pass without a mutation in {options.budget:.0f} s", flush=True)
    sys.dont_write_bytecode = True
    equivalent = _equivalent()
    results: dict[str, list[tuple[int, Mutation]]] = {"caught": [], "equivalent": [], "survived": []}
    for number, mutation in drawn:
        by, what = "", "equivalent"
        if (mutation.path, *mutation.lines()) not in equivalent:
            target = root / mutation.path
            target.write_text(mutation.after, encoding="utf-8")
            found = run_tests(root, files[mutation.path], options.budget)
            target.write_text(mutation.before, encoding="utf-8")
            what = "caught" if found.failed else "survived"
            by = next(iter(found.failed), f"{found.passed} tests")
        results[what].append((number, mutation))
        print(f"{number:4} {what:10} {mutation.path}:{mutation.line} {by}", flush=True)
        if what == "survived":
            print(mutation.diff(), flush=True)
    counted = len(results["caught"]) + len(results["survived"])
    share = len(results["caught"]) / max(counted, 1)
    print(f"\ncaught {len(results['caught'])} of {counted} ({share:.1%}); {len(results['equivalent'])} are equivalent")


def _tail(root: Path) -> str:
    return "\n".join((root / "output.txt").read_text().splitlines()[-30:])


def _equivalent() -> set[tuple[str, str, str]]:
    """Read the mutations that change no behaviour: file, line before, line after, reason."""
    table = Path(__file__).with_name("equivalent.tsv")
    rows = csv.reader(table.read_text(encoding="utf-8").splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return {(row[0], row[1], row[2]) for row in rows}


if __name__ == "__main__":
    main()
