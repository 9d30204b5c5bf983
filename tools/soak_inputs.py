"""Inputs with random damage, read in processes of bounded memory and time; see `soak.py`."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MEMORY = 2 << 30
"""Bytes that reading an input may take, beside what is loaded before."""

SECONDS = 20
"""Seconds that reading an input may take."""

BATCH = 50
"""Inputs that one process reads."""

HOSTILE = (
    "-1", "0", "1e999", "NaN", "1e9", "99999999999999999999", "4294967296", "null", "true", "[]", "{}", '""', "''",
    "\x00", "\ufeff", "\u202e", "\t", "\n", "\r",
    '"', "'", "\\", "/", "..", "../" * 30, "/dev/zero", "%s", "{id}", "{{",
    "[" * 3000, "{" * 3000, '{"a":' * 2000, "a" * 5000, "<a>" * 2000, "&", "|", "=", "#", ",", ";",
)  # fmt: skip
"""What a text gets in a random place."""


class Damage(NamedTuple):
    """A file that is damaged, and how it is read; `same` says of what was read whether it is what was written."""

    file: Path
    read: Callable[[], Any]
    same: Callable[[Any], bool] = lambda _: True


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return a file's content with one to three random changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        size = len(data)
        a = rng.randrange(size + 1)
        b = min(size, a + rng.choice((1, 1, 4, 32, size)))
        match rng.randrange(8):
            case 0:
                data = data[:a]
            case 1:
                data = data[:a] + data[b:]
            case 2:
                data = data[:b] + data[a:]
            case 3:
                data = data[:a] + bytes(rng.randrange(256) for _ in range(min(b - a, 64))) + data[b:]
            case 4:
                data = data[:a] + rng.choice(HOSTILE).encode() + data[a:]
            case 5:
                numbers = [*re.finditer(rb"\d+", data[:200_000])]
                if numbers:
                    found = rng.choice(numbers)
                    data = data[: found.start()] + rng.choice(HOSTILE[:9]).encode() + data[found.end() :]
            case 6:
                lines = data.split(b"\n")
                rng.shuffle(lines)
                data = b"\n".join(lines)
            case 7:
                values = [*re.finditer(rb"[\w.\"']+", data[:200_000])]
                if values:
                    found = rng.choice(values)
                    data = data[: found.start()] + rng.choice(HOSTILE).encode() + data[found.end() :]
    return data


class Inputs:
    """Sound inputs of every kind in a folder, of which one file at a time is damaged."""

    def __init__(self, place: Path) -> None:
        import layouts

        from manyseg.data.guess import guess
        from manyseg.data.world import write_world

        self.place = place
        self.layouts: list[str] = []
        for name, make in vars(layouts).items():
            if callable(make) and getattr(make, "__code__", None) and make.__code__.co_varnames[:1] == ("root",):
                if make.__code__.co_argcount > 1 and name != "yolo":
                    continue
                try:
                    make(place / name)
                    guess(place / name)[0].write(place / "cards" / f"{name}.toml")
                except Exception:  # A helper of a layout, or one that needs a package that is not there.
                    shutil.rmtree(place / name, ignore_errors=True)
                    continue
                self.layouts.append(name)
        self.world = write_world(place / "world", train=2, val=1, size=(48, 64))
        self.run = self._trained()
        for name in ("recipe.toml", "taxonomy.tsv"):
            shutil.copy(self.run / name, place / name)
        shutil.copytree(place, place.with_name("sound"))

    def mend(self) -> None:
        """Copy all files anew, after a process has left one damaged."""
        shutil.copytree(self.place.with_name("sound"), self.place, dirs_exist_ok=True)

    def _trained(self) -> Path:
        from manyseg.runs.run import train_recipe

        sets = [{"card": str(self.world.cards[n]), "root": str(self.world.folder / n)} for n in ("fine", "coarse")]
        recipe = {
            "data": {"crop": [32, 32], "workers": 0, "sets": [{**s, "per_step": 1} for s in sets]},
            "model": {"backbone": "tiny", "pretrained": False, "channels": 8},
            "train": {"steps": 2},
        }
        return train_recipe(recipe, out=self.place / "run", check=False)

    def kinds(self) -> dict[str, Callable[[random.Random], Damage]]:
        """Return, by kind, what draws an input."""
        return {
            "cards": self._card, "recipes": self._recipe, "tables": self._table, "annotations": self._annotation,
            "images": self._image, "run folders": self._folder, "checkpoints": self._checkpoint,
        }  # fmt: skip

    def _inspected(self, name: str) -> Callable[[], Any]:
        from manyseg.data.card import read_card
        from manyseg.data.folder import Folder
        from manyseg.data.inspection import inspect

        def read() -> None:
            card = read_card(self.place / "cards" / f"{name}.toml")
            for split in card.splits:
                folder = Folder(card, self.place / name, split)
                for i in range(len(folder.ids)):
                    inspect(folder, i, decode=True)

        return read

    def _card(self, rng: random.Random) -> Damage:
        name = rng.choice(self.layouts)
        return Damage(self.place / "cards" / f"{name}.toml", self._inspected(name))

    def _files(self, rng: random.Random, *, images: bool) -> Damage:
        name = rng.choice(self.layouts)
        endings = (".jpg", ".png", ".jpeg", ".tif")
        files = [p for p in sorted((self.place / name).rglob("*")) if p.is_file()]
        chosen = [p for p in files if (p.suffix.lower() in endings) == images]
        return Damage(rng.choice(chosen or files), self._inspected(name))

    def _annotation(self, rng: random.Random) -> Damage:
        return self._files(rng, images=False)

    def _image(self, rng: random.Random) -> Damage:
        return self._files(rng, images=True)

    def _recipe(self, rng: random.Random) -> Damage:
        from manyseg.runs.recipe import read_recipe

        recipe = self.place / "recipe.toml"
        return Damage(recipe, lambda: read_recipe(recipe))

    def _table(self, rng: random.Random) -> Damage:
        from manyseg.labels import Taxonomy
        from manyseg.labels.files import read_spaces

        spaces = read_spaces(self.run / "spaces.json")
        table = self.place / "taxonomy.tsv"
        return Damage(table, lambda: Taxonomy.read(table, spaces))

    def _folder(self, rng: random.Random) -> Damage:
        from manyseg.report.page import write_report
        from manyseg.runs.run import Run

        names = ("recipe.toml", "spaces.json", "taxonomy.tsv", "manifest.json", "metrics.jsonl", "scores.json",
                 "confusion.npz", "environment.json", "best/state.json")  # fmt: skip
        expected = Run.open(self.run)

        def read() -> Any:
            write_report(self.run)
            opened = Run.open(self.run)
            method = opened.load_model()
            return opened.spaces, opened.recipe.model_dump(), opened.taxonomy.to_tsv(), method.spaces

        known = (expected.spaces, expected.recipe.model_dump(), expected.taxonomy.to_tsv(), expected.spaces)
        return Damage(self.run / rng.choice(names), read, lambda found: bool(found == known))

    def _checkpoint(self, rng: random.Random) -> Damage:
        from manyseg.training import checkpoint

        best = self.run / "best"
        known = {k: v.numpy().tobytes() for k, v in checkpoint.read(best).tensors("model").items()}

        def read() -> Any:
            found = checkpoint.read(best)
            return {k: v.numpy().tobytes() for k, v in found.tensors("model").items()}

        return Damage(best / rng.choice(("state.json", "model.safetensors")), read, lambda found: bool(found == known))


class _TooLong(BaseException):
    pass


def _read_one(draw: Callable[[random.Random], Damage], seed: int) -> tuple[str, str]:
    """Damage, read and mend one input; return how it ended, and the traceback where there is one."""
    from manyseg.errors import UserError

    rng = random.Random(seed)
    what = draw(rng)
    sound = what.file.read_bytes()
    what.file.write_bytes(damaged(sound, rng))

    def late(*_: object) -> None:
        raise _TooLong

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        found = what.read()
        ended = "read" if what.same(found) else "silent"
        return ended, str(what.file)
    except UserError as e:
        line = str(e)
        return ("named", "") if "\n" not in line.strip() else ("named in several lines", f"{what.file}: {line}")
    except _TooLong:
        return "hangs", f"{what.file}\n{traceback.format_exc()}"
    except MemoryError:
        return "out of memory", f"{what.file}\n{traceback.format_exc()}"
    except BaseException:
        return "tracebacks", f"{what.file}\n{traceback.format_exc()}"
    finally:
        signal.alarm(0)
        what.file.write_bytes(sound)


def read_inputs(place: Path, seed: int, seconds: float, only: tuple[str, int] | None = None) -> int:
    """Read damaged inputs of every kind in turn for a while, print the table, and return the number of faults."""
    inputs = Inputs(place / "inputs")
    kinds = inputs.kinds()
    print(f"layouts of annotations: {', '.join(inputs.layouts)}", flush=True)
    if only is not None:
        print(_read_one(kinds[only[0]], only[1]))
        return 0
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    end, first = time.monotonic() + seconds, 1_000_000 * seed
    while time.monotonic() < end:
        for kind in kinds:
            first = _batch(inputs, kind, first, counts[kind])
    columns = ("read", "named", "named in several lines", "silent", "tracebacks", "hangs", "out of memory", "crashes")
    print(f"| input | tried | {' | '.join(columns)} |")
    print("|---|" + "---:|" * (len(columns) + 1))
    for kind, found in counts.items():
        print(f"| {kind} | {found.total()} | {' | '.join(str(found[c]) for c in columns)} |")
    return sum(found[c] for found in counts.values() for c in columns[2:])


def _batch(inputs: Inputs, kind: str, first: int, counts: Counter[str]) -> int:
    """Read inputs in a process of its own; return the number of the next one."""
    end, told = first + BATCH, inputs.place / "told.jsonl"
    while first < end:
        told.write_text("")
        child = os.fork()
        if not child:
            _limited(inputs, kind, range(first, end), told)
        status = os.waitpid(child, 0)[1]
        results = [json.loads(line) for line in told.read_text().splitlines()]
        for number, ended, text in results:
            counts[ended] += 1
            if ended not in ("read", "named"):
                print(f"--inputs '{kind}' {number}: {ended}: {text}", flush=True)
        first += len(results)
        if status and first < end:
            counts["crashes"] += 1
            print(f"--inputs '{kind}' {first}: the process ended with {os.waitstatus_to_exitcode(status)}", flush=True)
            first += 1
            inputs.mend()
    return end


def _limited(inputs: Inputs, kind: str, numbers: range, told: Path) -> None:
    status = 1
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        draw = inputs.kinds()[kind]
        with told.open("a") as out:
            for number in numbers:
                ended, text = _read_one(draw, number)
                out.write(json.dumps([number, ended, text]) + "\n")
                out.flush()
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)
