"""Images a second of `manyseg predict` on a folder of photos of mixed sizes, of this build and of another, in turns.

    python benchmarks/predict.py PHOTOS [--other CHECKOUT] [--count 300] [--rounds 2] [--backbone tf_efficientnet_lite0]

The pictures of PHOTOS are resized to ten sizes in turn, until there are `count` of them. `--other` is the root of
another checkout, such as a worktree of an earlier commit (5f71d45 is the first build). Each build predicts all photos
in a process of its own, which loads the network first; the builds take turns. The backbone has published weights; heads
are not trained, so that label maps are more ragged than those of a trained run, which takes every build more time.
Busy is the share of the wall time in which the network, or the reading of its scores, worked on a batch or more.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

SIZES = (
    (128, 256), (480, 640), (227, 320), (288, 384), (375, 500), (240, 320), (360, 480), (96, 128), (256, 512),
    (320, 480),
)  # fmt: skip
"""(height, width) of the photos."""

CLASSES = 19


def main() -> None:
    """Print a row for every call."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.once:
        print(json.dumps(once(asked.photos, asked.backbone)))
        return
    here = Path(__file__).resolve().parents[1]
    builds = {"other": asked.other, "this": here} if asked.other else {"this": here}
    with tempfile.TemporaryDirectory() as folder:
        write(asked.photos, Path(folder), asked.count)
        print("| build | images/s | network busy | seconds of the processor an image |")
        print("|---|---:|---:|---:|")
        for _, (name, root) in itertools.product(range(asked.rounds), builds.items()):
            command = [sys.executable, __file__, folder, "--once", "--backbone", asked.backbone]
            environment = os.environ | {
                "PYTHONPATH": os.pathsep.join([str(root.resolve()), os.environ.get("PYTHONPATH", "")])
            }
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            pace = asked.count / found["seconds"]
            spent = found["processor"] / asked.count
            print(f"| {name} | {pace:.2f} | {found['busy']:.0%} | {spent:.3f} |", flush=True)


def write(source: Path, out: Path, count: int) -> None:
    """Write `count` photos of mixed sizes."""
    from PIL import Image

    files = sorted(p for p in source.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    for n, (path, size) in enumerate(itertools.islice(zip(itertools.cycle(files), itertools.cycle(SIZES)), count)):
        with Image.open(path) as image:
            resized = image.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC)
        resized.save(out / f"{n:04}.jpg", quality=90)


def once(photos: Path, backbone: str) -> dict[str, Any]:
    """Predict a folder with the build that is imported, as its command line does; return the seconds that it took."""
    with suppress(ImportError):  # Builds before it left the threads to torch.
        from manyseg.cores import share_cores

        share_cores()
    import torch

    predict, busy = _prepared(backbone)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as out:
        start, spent = time.monotonic(), time.process_time()
        found = predict(photos, out)
        seconds = time.monotonic() - start
        share = getattr(found, "busy", sum(busy) / seconds)
        return {"seconds": seconds, "processor": time.process_time() - spent, "busy": share}


def _prepared(backbone: str) -> tuple[Callable[[Path, str], Any], list[float]]:
    """Return what predicts a folder, and the list that it adds the network's seconds to where it tells no share."""
    import torch

    from manyseg.labels import LabelSpace

    torch.manual_seed(0)
    names = [f"class {i}" for i in range(CLASSES)]
    busy: list[float] = []
    try:
        from manyseg.prediction.model import Model
    except ImportError:
        return _first_build(backbone, LabelSpace.of("s", names), busy), busy
    from manyseg.inference.encoded_images import EncodedImages
    from manyseg.inference.options import PHOTOS
    from manyseg.methods import find_method
    from manyseg.models import PixelEncoder
    from manyseg.prediction.predict import predict_paths

    space = LabelSpace.of("s", names)
    encoder = PixelEncoder.build(backbone=backbone, channels=128).to(memory_format=torch.channels_last)
    model = Model(find_method("multihead")(encoder, [space]), [space], PHOTOS)
    with suppress(ImportError):  # Builds before it fold nothing.
        from manyseg.models.folding import fold_batch_norms

        fold_batch_norms(model.method.pixel_encoder, torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    EncodedImages.label_maps = _timed(EncodedImages.label_maps, busy)  # type: ignore[method-assign]
    return lambda photos, out: predict_paths(model, [photos], "s", out), busy


def _first_build(backbone: str, space: Any, busy: list[float]) -> Callable[[Path, str], Any]:
    """Do the same with the names that the first build has (5f71d45)."""
    import torch

    from manyseg import predict
    from manyseg.methods import METHODS
    from manyseg.models import Pixels

    pixels = Pixels.build(backbone=backbone, channels=128).to(memory_format=torch.channels_last)
    method = METHODS["multihead"](pixels, [space]).eval()
    predict.predict_image = _timed(predict.predict_image, busy)
    return lambda photos, out: predict.predict_paths(method, [space], [photos], "s", out)


def _timed(function: Callable[..., Any], busy: list[float]) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.monotonic()
        found = function(*arguments, **options)
        busy.append(time.monotonic() - start)
        return found

    return timed


if __name__ == "__main__":
    main()
