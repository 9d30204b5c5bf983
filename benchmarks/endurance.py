"""What grows where it must not: in many steps, large images, many images and many datasets.

    python benchmarks/endurance.py steps large images datasets

`steps` are 1,000 of a tiny network with two workers, by two methods: memory, open handles, files in /dev/shm and
threads at every hundredth, and what is left at the end. `large` takes images of 8000 x 6000 through `train` and `eval`.
`images` are 20,000 small ones, checked in full before training, twice. `datasets` are 100 of one generated world. Each
part runs in a process of its own, on one thread; times are seconds of the processor and of the clock, memory is the
peak of the process with all that it imports.
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from manyseg.config import to_toml
from manyseg.data.world import write_world
from manyseg.runs.run import train_recipe
from manyseg.runs.trained import evaluate_run
from manyseg.training import loop

CARD = """
name = "made"
image = "images/{id}.jpg"
mask = "masks/{id}.png"
encoding = "index"
splits = { train = "train.txt", val = "val.txt" }
[classes]
a = 0
b = 1
c = 2
"""


def recipe(folder: Path, sets: list[dict[str, Any]], crop: int = 32, method: str = "multihead", **train: Any) -> Path:
    path = folder / "recipe.toml"
    model = {"backbone": "tiny", "pretrained": False, "channels": 8}
    data = {"crop": [crop, crop], "sets": sets}
    path.write_text(to_toml({"data": data, "model": model, "method": {"name": method}, "train": train}))
    return path


def timed(what: str, work: Callable[[], Any]) -> None:
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{what}: {cpu:.1f} s of the processor, {clock:.1f} s; {most:.0f} MiB at most", file=sys.stderr, flush=True)


def state() -> str:
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    handles, threads, shared = (len(os.listdir(p)) for p in ("/proc/self/fd", "/proc/self/task", "/dev/shm"))
    return f"{memory:.0f} MiB, {handles} handles, {threads} threads, {shared} files in /dev/shm"


def steps(folder: Path, method: str) -> None:
    world = write_world(folder / "world", train=8, val=2, size=(48, 64))
    sets = [{"card": f"{n}.toml", "root": n, "per_step": 1} for n in ("fine", "coarse")]
    options = {"steps": 1000, "log_every": 100, "eval_every": 250, "checkpoint_every": 100}
    path = recipe(world.folder, sets, method=method, **options)
    report = loop._Stage._report

    def telling(self: Any) -> None:
        report(self)
        if self.step % 100 == 0:
            print(f"{method}, step {self.step}: {state()}", file=sys.stderr, flush=True)

    loop._Stage._report = telling
    train_recipe(path, out=folder / "run", overrides=["data.workers=2"], check=False)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    print(f"{method}, at the end: {state()}, {len(children)} processes", file=sys.stderr)


def large(folder: Path) -> None:
    write(folder, photos(2, (8000, 6000)))
    path = recipe(folder, [{"card": "card.toml", "root": "."}], crop=512, steps=3, log_every=1)
    timed("train, 8000 x 6000", lambda: train_recipe(path, out=folder / "run"))
    timed("eval, 8000 x 6000", lambda: evaluate_run(folder / "run"))


def images(folder: Path) -> None:
    write(folder, photos(20, (64, 48)) * 1000)
    path = recipe(folder, [{"card": "card.toml", "root": ".", "per_step": 4}], steps=5, log_every=1)
    for name in ("first", "second"):
        timed(f"train, 20,000 images, {name} time", lambda name=name: train_recipe(path, out=folder / name))


def datasets(folder: Path) -> None:
    world = write_world(folder / "world", train=4, val=2, size=(48, 64)).folder
    sets = []
    for i in range(100):
        kind = ("fine", "coarse", "partial")[i % 3]
        text = (world / f"{kind}.toml").read_text()
        (world / f"set{i}.toml").write_text(text.replace(f'name = "{kind}"', f'name = "{kind}{i}"'))
        sets.append({"card": f"set{i}.toml", "root": kind, "per_step": 1})
    path = recipe(world, sets, steps=3, log_every=1)
    timed("train, 100 datasets", lambda: train_recipe(path, out=folder / "run"))


def photos(count: int, size: tuple[int, int]) -> list[tuple[bytes, bytes]]:
    """Make images of noise and masks of three classes, as the bytes of their files."""
    rng, out = np.random.default_rng(0), []
    for _ in range(count):
        noise, mask = rng.integers(0, 255, (48, 64, 3), np.uint8), rng.integers(0, 3, (48, 64), np.uint8)
        files = io.BytesIO(), io.BytesIO()
        Image.fromarray(noise).resize(size).save(files[0], "JPEG", quality=90)
        Image.fromarray(mask).resize(size, Image.Resampling.NEAREST).save(files[1], "PNG")
        out.append((files[0].getvalue(), files[1].getvalue()))
    return out


def write(folder: Path, files: list[tuple[bytes, bytes]]) -> None:
    """Write a dataset of which the last images, one in twenty and at least one, are for the evaluation."""
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    (folder / "card.toml").write_text(CARD)
    for i, (image, mask) in enumerate(files):
        (folder / f"images/{i:05}.jpg").write_bytes(image)
        (folder / f"masks/{i:05}.png").write_bytes(mask)
    ids = [f"{i:05}\n" for i in range(len(files))]
    last = min(10, len(files) // 2)
    (folder / "train.txt").write_text("".join(ids[:-last]))
    (folder / "val.txt").write_text("".join(ids[-last:]))


PARTS: dict[str, list[Callable[[Path], None]]] = {
    "steps": [lambda folder: steps(folder, "joint"), lambda folder: steps(folder, "multihead")],
    "large": [large],
    "images": [images],
    "datasets": [datasets],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        with tempfile.TemporaryDirectory() as name:
            os.environ["MANYSEG_CACHE"] = str(Path(name) / "cache")
            PARTS[args.parts[0]][args.one](Path(name))
        return
    for part in args.parts:
        for number in range(len(PARTS[part])):
            command = [sys.executable, __file__, part, "--one", str(number)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
