"""Images per second of the processor that a mixture delivers, against decoding the same files with Pillow alone.

    python benchmarks/loader.py [--images 24] [--rounds 5] [--blur 0]

Both sides read the same generated 2048x1024 JPEG images with PNG masks, in one process and one thread, in turns, so
that a noisy machine slows both. The reference decodes every file whole into an array. The mixture does all that
training asks of it: checks and maps the labels, zooms by 0.5 to 2, looks for a 512x512 crop that no class dominates,
flips, jitters colours, and stacks batches of 4. The goal is a ratio of 0.9. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from manyseg.data.mixture import Mixture
from manyseg.data.options import DataOptions
from manyseg.data.world import CAMERAS, CONCEPTS, scene

SIZE = (1024, 2048)
CROP = (512, 512)
PER_STEP = 4


def write_dataset(folder: Path, images: int) -> None:
    """Write generated street scenes as JPEG (quality 90) and 8-bit index PNG, with a card."""
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for i in range(images):
        # Painted at half size and enlarged, with fresh noise: a camera's texture in seconds, not minutes.
        image, concept, _ = scene(CAMERAS[0], (SIZE[0] // 2, SIZE[1] // 2), np.random.default_rng(i))
        large = np.asarray(Image.fromarray(image).resize(SIZE[::-1], Image.Resampling.BICUBIC), np.float32)
        large = large + np.random.default_rng(i).normal(0, 3, (*SIZE, 1))
        Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(folder / f"images/{i}.jpg", quality=90)
        mask = Image.fromarray(concept.astype(np.uint8)).resize(SIZE[::-1], Image.Resampling.NEAREST)
        mask.save(folder / f"masks/{i}.png")
    classes = "\n".join(f'"{name}" = {i}' for i, name in enumerate(CONCEPTS))
    (folder / "card.toml").write_text(
        'name = "street"\nimage = "images/{id}.jpg"\nmask = "masks/{id}.png"\nencoding = "index"\n'
        f'splits = {{ train = "train.txt" }}\n[classes]\n{classes}\n'
    )
    (folder / "train.txt").write_text("\n".join(map(str, range(images))))


def decode(folder: Path, images: int) -> None:
    for i in range(images):
        with Image.open(folder / f"images/{i}.jpg") as image:
            np.array(image.convert("RGB"))
        with Image.open(folder / f"masks/{i}.png") as mask:
            np.array(mask)


def mix(mixture: Mixture, start: int, stop: int) -> None:
    for batches in mixture.loader(start, stop):
        assert batches[0].image.shape == (PER_STEP, 3, *CROP)


def measure(folder: Path, images: int, rounds: int, blur: float) -> dict[str, list[float]]:
    """Return images per second of both sides, one value a round."""
    options = DataOptions(
        sets=[{"card": "card.toml", "root": ".", "per_step": PER_STEP}], crop=CROP, blur=blur, workers=0
    )
    mixture = Mixture.open(options, folder, seed=0)
    steps = images // PER_STEP
    speeds: dict[str, list[float]] = {"pillow": [], "mixture": []}
    decode(folder, images)
    mix(mixture, 0, 1)
    for r in range(rounds):
        for name, work in (
            ("pillow", lambda: decode(folder, images)),
            ("mixture", lambda r=r: mix(mixture, r * steps, (r + 1) * steps)),
        ):
            start = time.process_time()
            work()
            speeds[name].append(images / (time.process_time() - start))
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24, help="files of each kind; a multiple of 4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blur", type=float, default=0.0, help="chance of a blur")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder, args.images)
        bytes_an_image = statistics.mean(p.stat().st_size for p in folder.glob("images/*"))
        speeds = measure(folder, args.images, args.rounds, args.blur)
    ratios = [m / p for m, p in zip(speeds["mixture"], speeds["pillow"], strict=True)]
    table = Table("", "images/s, median", "slowest round", "fastest round")
    for side, values in speeds.items():
        table.add_row(side, *(f"{v:.1f}" for v in (statistics.median(values), min(values), max(values))))
    table.add_row("ratio", *(f"{v:.2f}" for v in (statistics.median(ratios), min(ratios), max(ratios))))
    Console().print(table)
    result = {f"{side}_images_per_s": round(statistics.median(v), 1) for side, v in speeds.items()}
    result |= {
        "ratio": round(statistics.median(ratios), 3),
        "goal": 0.9,
        "kilobytes_a_jpeg": round(bytes_an_image / 1e3),
    }
    print(json.dumps({"benchmark": "loader", **result}))


if __name__ == "__main__":
    main()
