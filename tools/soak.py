"""A long test of what a run survives: processes killed anywhere, and inputs damaged in any way.

    python tools/soak.py --seed 0 --minutes 20

Half of the time small runs are killed (SIGKILL), resumed, killed again while they resume, and in the end compared, bit
for bit, with one that was not killed: `joint`, `multihead`, AutoUniSeg with its four stages, each also in two
processes, of which one is killed and the other has to end by itself. The first kill of a run comes before one of all
kinds of operations on files (such as "replace best/state.json"), which are gone through in turn; the others at a
random moment or before a random operation. In the other half `soak_inputs.py` reads inputs with random damage. The
report at the end is a table; docs/reliability.md has that of the last long run. Whatever went wrong is printed with
the seed that repeats it (`--kills SEED`, `--inputs KIND SEED`).
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "tests")]

HANGS_AFTER = 300
"""Seconds after which a process that should have ended hangs."""

MEETING = timedelta(seconds=30)
"""How long processes wait for others that were killed before they came."""

RECIPE = """
[data]
crop = [32, 32]
workers = 0
sets = [
    { card = "fine.toml", root = "fine", per_step = 2, statistics_split = "val" },
    { card = "coarse.toml", root = "coarse", per_step = 2, statistics_split = "val" },
]
[model]
backbone = "tiny"
pretrained = false
channels = 8
[train]
lr = 0.01
log_every = 1
checkpoint_every = 1
"""

METHODS = {
    "joint": "steps = 6\neval_every = 3\n[method]\nname = 'joint'\n",
    "multihead": "steps = 6\neval_every = 3\nema = 0.9\n[method]\nname = 'multihead'\n",
    "autouniseg": "steps = 8\n[method]\nname = 'autouniseg'\n[method.graph]\nfeatures = 'learned'\nhidden = 16\n",
}
"""The ends of the recipes."""


class Course(NamedTuple):
    """A kind of run, and what it gives where nothing happens."""

    method: str
    processes: int
    recipe: Path
    expected: tuple[Any, ...]
    seconds: float
    operations: tuple[list[str], ...]
    """The operations on files of each process, in order, as "replace best/state.json"."""

    def kinds(self) -> list[tuple[int, str]]:
        """List the processes' different operations, each with its process."""
        return [(rank, kind) for rank, found in enumerate(self.operations) for kind in dict.fromkeys(found)]


class Kill(NamedTuple):
    """Which process dies, and when: before an operation on a file, by number from 1 on, or after some seconds."""

    rank: int
    operation: int | None = None
    seconds: float | None = None


# Processes.


def start(recipe: Path, folder: Path, environment: dict[str, str], before: Callable[[], None] = lambda: None) -> int:
    """Fork a process that trains, or goes on, and says everything into `output.txt` beside the folder."""
    from accelerate.state import AcceleratorState

    from manyseg.errors import UserError
    from manyseg.runs.run import train_recipe

    child = os.fork()
    if child:
        return child
    status = 3
    try:
        with (folder.parent / "output.txt").open("a") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        faulthandler.enable()
        os.environ.update(environment)
        AcceleratorState._reset_state(True)
        before()
        train_recipe(recipe, out=folder, resume=True, check=False)
        status = 0
    except UserError as e:
        print(f"refused: {e}")
        status = 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(children: Sequence[int], kill: Kill | None = None) -> list[int]:
    """Wait for processes, one of which is killed after `kill.seconds`; return how they ended, 99 for a hang.

    A process that hangs is made to say where.
    """
    begin, ended = time.monotonic(), dict[int, int]()
    while len(ended) < len(children):
        for child in children:
            if child not in ended and (found := os.waitpid(child, os.WNOHANG))[0]:
                ended[child] = os.waitstatus_to_exitcode(found[1])
        at = time.monotonic() - begin
        if kill is not None and kill.seconds is not None and at > kill.seconds:
            if (victim := children[kill.rank]) not in ended:
                os.kill(victim, signal.SIGKILL)
            kill = None
        if at > HANGS_AFTER:
            for child in {*children} - {*ended}:
                os.kill(child, signal.SIGABRT)
                time.sleep(1)
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                ended[child] = 99
        time.sleep(0.005)
    return [ended[child] for child in children]


def watch_operations(folder: Path, act: Callable[[int, str], None]) -> None:
    """Call `act` before every operation that changes a file or a folder, in this process, with its number and kind."""
    number = 0

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal number
            number += 1
            # Of a renaming, what it becomes.
            path = args[1] if name in ("replace", "rename") else args[0]
            path = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
            path = path.removeprefix(f"{folder}/").removeprefix(f"{folder.parent}/")
            path = re.sub(r"writing-[0-9a-f]+|(?<=cache/)[0-9a-f]{2}(?![0-9a-f])|[0-9a-f]{16,}", "*", path)
            act(number, f"{name} {path}")
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "open"):
        setattr(os, name, watched(name, getattr(os, name)))


def run(recipe: Path, folder: Path, processes: int, kill: Kill | None = None, record: bool = False) -> list[int]:
    """Train in a number of processes; return how they ended. With `record` their operations on files are kept."""

    def prepare(rank: int) -> Callable[[], None]:
        if record:
            file = (folder.parent / f"operations{rank}.txt").open("w")
            return lambda: watch_operations(folder, lambda _, kind: print(kind, file=file, flush=True))
        if kill is not None and kill.rank == rank and kill.operation is not None:
            return lambda: watch_operations(folder, die)
        return lambda: None

    def die(number: int, kind: str) -> None:
        if kill is not None and number == kill.operation:
            os.kill(os.getpid(), signal.SIGKILL)

    cache = {"MANYSEG_CACHE": str(folder.parent / "cache")}
    if processes == 1:
        return wait([start(recipe, folder, cache, prepare(0))], kill)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = cache | {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    each = [common | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(processes)]
    return wait([start(recipe, folder, each[r], prepare(r)) for r in range(processes)], kill)


def outcome(folder: Path) -> tuple[Any, ...]:
    """Return what a run gives: its losses, scores, label space and weights."""
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["stage"], line["losses"]) for line in lines if "losses" in line]
    names = ("scores.json", "taxonomy.tsv", "best/model.safetensors", "checkpoint/optimizer.safetensors")
    return (losses, *((folder / name).read_bytes() for name in names))


# Kills.


def courses(place: Path) -> list[Course]:
    """Write the data and the recipes, and run each kind once without a kill."""
    from manyseg.data.world import write_world

    world = write_world(place, train=4, val=2, size=(48, 64))
    found = []
    for method, end in METHODS.items():
        recipe = world.folder / f"{method}.toml"
        recipe.write_text(RECIPE + end)
        for processes in (1, 2):
            folder = place / f"whole-{method}{processes}" / "run"
            folder.parent.mkdir()
            begin = time.monotonic()
            ended = run(recipe, folder, processes, record=True)
            seconds = time.monotonic() - begin
            if any(ended):
                sys.exit(f"{method} in {processes} processes fails without a kill:\n{_said(folder)}")
            files = [folder.parent / f"operations{rank}.txt" for rank in range(processes)]
            operations = tuple(file.read_text().splitlines() for file in files)
            course = Course(method, processes, recipe, outcome(folder), seconds, operations)
            found.append(course)
            total, kinds = sum(map(len, operations)), len(course.kinds())
            print(f"{method} in {processes}: {seconds:.1f} s, {total} operations on files of {kinds} kinds", flush=True)
    return found


def drawn_kill(course: Course, attempt: int, turn: int, rng: random.Random) -> Kill:
    """Return when a run dies: the first time before the kind of operation whose turn it is, then at random."""
    if not attempt:
        kinds = course.kinds()
        rank, kind = kinds[turn % len(kinds)]
        return Kill(rank, rng.choice([n for n, k in enumerate(course.operations[rank], 1) if k == kind]))
    rank = rng.randrange(course.processes)
    if rng.random() < 0.4:
        return Kill(rank, seconds=rng.uniform(0, course.seconds))
    # Resumed runs have less to do: an early operation.
    return Kill(rank, rng.randint(1, max(20, len(course.operations[rank]) // 3)))


def killed_again_and_again(course: Course, place: Path, seed: int, turn: int, counts: Counter[str]) -> str:
    """Kill a run up to five times, some of them while it resumes, and let it end; return what is wrong, or ""."""
    rng = random.Random(seed)
    folder = place / f"kills-{seed}" / "run"
    folder.parent.mkdir()
    for attempt in range(rng.randint(1, 5)):
        kill = drawn_kill(course, attempt, turn, rng)
        ended = run(course.recipe, folder, course.processes, kill)
        if 99 in ended or 3 in ended:
            counts["hangs" if 99 in ended else "tracebacks"] += 1
            return f"after kill {attempt + 1}, {kill}: processes ended with {ended}\n{_said(folder)}"
        if -signal.SIGKILL not in ended:
            break
        counts["kills"] += 1
        counts["kills of a resumed run"] += attempt > 0
        counts[f"kills, {course.method} in {course.processes}"] += 1
        counts[f"kills, stage {_stage(folder)}"] += 1
    ended = run(course.recipe, folder, course.processes)
    if any(ended):
        counts["lost"] += 1
        return f"cannot be resumed: processes ended with {ended}\n{_said(folder)}"
    if outcome(folder) != course.expected:
        counts["different"] += 1
        return f"is not the run that was not killed\n{_said(folder)}"
    left = [p.name for pattern in ("*.writing", "*.previous", ".*") for p in folder.glob(pattern)]
    if left:
        counts["leftovers"] += 1
        return f"leaves {left}"
    shutil.rmtree(folder.parent)
    return ""


def _stage(folder: Path) -> str:
    """Say which stage a run was in, from the last whole line of its log."""
    try:
        return str(json.loads((folder / "metrics.jsonl").read_text().rpartition("\n")[0].splitlines()[-1])["stage"])
    except (OSError, IndexError):
        return "none"


def _said(folder: Path) -> str:
    return "\n".join((folder.parent / "output.txt").read_text(errors="replace").splitlines()[-25:])


def main() -> None:
    """Kill runs, read damaged inputs, and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20, help="of both parts together")
    parser.add_argument("--kills", type=int, nargs="*", help="repeat the killed runs of these seeds alone")
    parser.add_argument("--inputs", nargs=2, metavar=("KIND", "SEED"), help="repeat one damaged input alone")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    import torch
    from soak_inputs import read_inputs

    import manyseg.methods.autouniseg
    import manyseg.runs.stages  # noqa: F401  Loaded once, before a process is forked for each run.
    from manyseg.training import processes

    processes.MEETING = MEETING
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name).resolve()
        os.environ["MANYSEG_CACHE"] = str(place / "cache")
        faults = 0
        if options.inputs:
            faults += read_inputs(place, 0, 0, only=(options.inputs[0], int(options.inputs[1])))
        else:
            faults += kill_runs(place, options.seed, 30 * options.minutes, options.kills)
            if options.kills is None:
                faults += read_inputs(place, options.seed, 30 * options.minutes)
    sys.exit(1 if faults else 0)


def kill_runs(place: Path, seed: int, seconds: float, only: Sequence[int] | None) -> int:
    """Kill runs for a while, or those of the seeds `only`; print the table, and return the number of faults."""
    known, counts, faults = courses(place), Counter[str](), 0
    end, number = time.monotonic() + seconds, 1_000_000 * seed
    for seed in only if only is not None else range(number, number + 1_000_000):
        if only is None and time.monotonic() > end:
            break
        counts["runs"] += 1
        turn = seed % 1_000_000 // len(known)
        if wrong := killed_again_and_again(known[seed % len(known)], place, seed, turn, counts):
            faults += 1
            print(f"--kills {seed}: {wrong}", flush=True)
    all_kinds = sum(len(course.kinds()) for course in known)
    reached = sum(min(len(c.kinds()), len(range(i, counts["runs"], len(known)))) for i, c in enumerate(known))
    print(f"first kills before {reached} of {all_kinds} kinds of operations on files")
    names = ("runs", "kills", "kills of a resumed run", *sorted(k for k in counts if "," in k))
    for name in (*names, "lost", "different", "tracebacks", "hangs", "leftovers"):
        print(f"| {name} | {counts[name]} |")
    return faults


if __name__ == "__main__":
    main()
