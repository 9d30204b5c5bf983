"""Mutation testing: change one thing in the heart of the package, and see whether a test notices.

    python tools/mutation.py --seed 0 --count 150
    python tools/mutation.py manyseg/losses/mask.py --count 1000
    python tools/mutation.py --planted

Draws single-point mutations (an operator, a constant, `min` for `max`, a `detach` left out, ...) and runs for each,
until one fails, the tests of its folder that reach its line. Everything happens in a copy of the checkout, in one
process at a time. What survives is printed as a diff; `tools/equivalent.tsv` lists mutations that change no behaviour,
with the reason, and these do not count. With `--planted` the faults of `tools/planted.tsv` are made instead, each of
which must fail the test that it names. docs/results.md has the score, docs/design.md says how to use it.
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
from collections.abc import Iterator, Mapping, Sequence
from difflib import unified_diff
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from py_compile import PycInvalidationMode
from types import MappingProxyType
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

WHOLE = 3600.0
"""Seconds of the processor for all tests without a mutation."""

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


def draw(root: Path, places: Sequence[str], seed: int, count: int) -> list[Mutation]:
    """Draw mutations of the files of `places`, each as likely as any other; the first of more are the same."""
    found = [[root / p] if p.endswith(".py") else sorted((root / p).rglob("*.py")) for p in places]
    every = [m for files in found for path in files for m in _mutations_of(root, path)]
    order = random.Random(seed).sample(range(len(every)), len(every))
    chosen = list(islice((i for i in order if _is_python(every[i].after)), count))
    print(f"{len(chosen)} of {len(every)} mutations of {', '.join(places)}; seed {seed}", flush=True)
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
    """A plugin of pytest that notes what failed, and starts no test once the processor has worked until `stop`.

    With `chosen`, the seconds that tests take, these alone are run, those of a second or more last. With `coverage`,
    what each test takes and which lines it reaches is noted.
    """

    def __init__(self, stop: float, chosen: Mapping[str, float] | None, coverage: Any) -> None:
        self.stop, self.chosen, self.coverage = stop, chosen, coverage
        self.failed: list[str] = []
        self.seconds: dict[str, float] = {}
        self.passed = 0

    def pytest_collection(self) -> None:
        """Do not make failing examples small; it takes long, and nobody reads them."""
        from hypothesis import Phase, settings

        settings.register_profile("mutation", deadline=None, phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutation")

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave the chosen tests, and none that trains a method to the end: of such a test little can be told."""
        items[:] = [item for item in items if "learns_the_toy_world" not in item.name]
        if self.chosen is not None:
            seconds = self.chosen
            items[:] = sorted((i for i in items if i.nodeid in seconds), key=lambda i: seconds[i.nodeid] >= 1)

    def pytest_runtest_setup(self, item: Any) -> None:
        """Stop in time."""
        if time.process_time() > self.stop:
            item.session.shouldstop = "no time is left"
        if self.coverage is not None:
            self.coverage.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take note of a part of a test."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        self.passed += report.when == "call" and report.passed
        if report.failed:
            self.failed.append(report.nodeid)


class Answer(NamedTuple):
    """How a run of tests ended."""

    passed: int
    failed: list[str]
    seconds: Mapping[str, float] = MappingProxyType({})
    """What each test took."""
    reached: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType({})
    """By file and line, the tests that reach it; "" stands for its being imported."""


def tests_reaching(reached: Mapping[str, Sequence[str]], source: str, line: int) -> set[str] | None:
    """Return the tests that reach the statement of a line, by line; None where it is run when it is imported."""
    first, last = line, line
    for node in ast.walk(ast.parse(source)):  # Outer statements before those within them.
        if isinstance(node, ast.stmt) and node.lineno <= line:
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno or line
            if line <= end:
                first, last = node.lineno, end
    found = {test for number in range(first, last + 1) for test in reached.get(str(number), ())}
    return None if "" in found else found


def run_tests(
    root: Path, files: Sequence[str], budget: float, chosen: Mapping[str, float] | None = None, trace: bool = False
) -> Answer:
    """Run test files in a forked process until one fails or `budget` seconds of the processor are used.

    With `chosen` only these tests of the files, see `Recorder`; with `trace` the lines that each reaches are noted.
    A test that runs on for half the budget more has failed: it has met an endless loop.
    """
    answer = root / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        os.setsid()
        try:
            _child(root, answer, files, budget, chosen, trace)
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


def _child(
    root: Path, answer: Path, files: Sequence[str], budget: float, chosen: Mapping[str, float] | None, trace: bool
) -> None:
    import coverage
    import pytest

    os.chdir(root)
    os.environ["PYTHONPATH"] = sys.path[0] = str(root)
    with (root / "output.txt").open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    begin = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(begin + 1.5 * budget) + 1, int(begin + 1.5 * budget) + 5))
    tracer = coverage.Coverage(data_file=None, include=[str(root / "manyseg" / "*")]) if trace else None
    recorder = Recorder(begin + budget, chosen, tracer)
    if tracer is not None:
        tracer.start()
    # Some plugins of pytest were imported with the libraries before the fork.
    options = ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = int(pytest.main([*options, "--hypothesis-seed=0", *files], plugins=[recorder]))
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.INTERRUPTED) and not recorder.failed:
        recorder.failed.append("before any test")
    reached: dict[str, Any] = {}
    if tracer is not None:
        tracer.stop()
        data = tracer.get_data()
        reached = {os.path.relpath(f, root): data.contexts_by_lineno(f) for f in data.measured_files()}
    answer.write_text(json.dumps(Answer(recorder.passed, recorder.failed, recorder.seconds, reached)._asdict()))


# The run.


def main() -> None:
    """Mutate, test, and print what survived and the score."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    every = [f"manyseg/{folder}" for folder in HEART]
    parser.add_argument("places", nargs="*", default=every, help="files or folders to change; those of the heart")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=150, help="mutations to draw")
    parser.add_argument("--budget", type=float, default=40, help="seconds of the processor for each mutation")
    parser.add_argument("--planted", action="store_true", help="make the faults of tools/planted.tsv instead")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the mutations to run, of those drawn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = _copy(Path(folder).resolve() / "copy")
        os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        for name in PRELOADED:
            __import__(name)
        if options.planted:
            _plant(root, options.budget)
        else:
            _run(root, options)


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
    numbered = enumerate(draw(root, options.places, options.seed, options.count))
    drawn = [(n, m) for n, m in numbered if options.only is None or n in options.only]
    files = {path: tests_of(root, path) for path in {m.path for _, m in drawn}}
    whole = run_tests(root, sorted({f for found in files.values() for f in found}), WHOLE, trace=True)
    if whole.failed:
        sys.exit(f"tests fail without a mutation: {whole.failed}\n{_tail(root)}")
    print(f"{whole.passed} tests pass without a mutation", flush=True)
    sys.dont_write_bytecode = True
    equivalent = _equivalent()
    results: dict[str, list[tuple[int, Mutation]]] = {"caught": [], "equivalent": [], "survived": []}
    for number, mutation in drawn:
        by, what = "", "equivalent"
        if (mutation.path, *mutation.lines()) not in equivalent:
            target = root / mutation.path
            target.write_text(mutation.after, encoding="utf-8")
            found = _tested(root, mutation, files[mutation.path], whole, options.budget)
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


def _plant(root: Path, budget: float) -> None:
    """Make every fault of the table, and say which test fails; one that none notices ends with an error."""
    rows = _table("planted.tsv")[1:]
    sound = run_tests(root, sorted({test for *_, test in rows}), WHOLE)
    if sound.failed:
        sys.exit(f"tests fail without a fault: {sound.failed}\n{_tail(root)}")
    sys.dont_write_bytecode = True
    unnoticed = 0
    for what, name, before, after, test in rows:
        file = root / name
        source = file.read_text(encoding="utf-8")
        if source.count(before) != 1:
            sys.exit(f"{name} has this line {source.count(before)} times; correct tools/planted.tsv: {before}")
        file.write_text(source.replace(before, after), encoding="utf-8")
        found = run_tests(root, [test], budget)
        file.write_text(source, encoding="utf-8")
        unnoticed += not found.failed
        print(f"{what}: {next(iter(found.failed), 'NOT NOTICED')}", flush=True)
    print(f"\n{len(rows) - unnoticed} of {len(rows)} faults are noticed")
    sys.exit(unnoticed > 0)


def _tested(root: Path, mutation: Mutation, files: Sequence[str], whole: Answer, budget: float) -> Answer:
    """Run the tests of `files` that reach the mutation; all of them where it is run on import, or seen by none.

    What is kept for all tests, such as a table that is read once, is reached by whichever test comes first.
    """
    tests = tests_reaching(whole.reached.get(mutation.path, {}), mutation.before, mutation.line)
    if not tests:
        return run_tests(root, files, budget)
    chosen = {test: whole.seconds[test] for file in files for test in tests if test.startswith(f"{file}::")}
    reaching = [file for file in files if any(test.startswith(f"{file}::") for test in chosen)]
    return run_tests(root, reaching or files, budget, chosen or None)


def _tail(root: Path) -> str:
    return "\n".join((root / "output.txt").read_text().splitlines()[-30:])


def _equivalent() -> set[tuple[str, str, str]]:
    """Read the mutations that change no behaviour: file, line before, line after, reason."""
    return {(row[0], row[1], row[2]) for row in _table("equivalent.tsv")}


def _table(name: str) -> list[list[str]]:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return [*csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]


if __name__ == "__main__":
    main()
