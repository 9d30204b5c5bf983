"""Where the time of a large photo goes in `manyseg serve`: the processor's seconds of each part of `/api/predict`.

    python benchmarks/photo.py RUN PHOTO [--size 4000 3000] [--threads 1]

The photo is enlarged to (width, height) `--size`, saved as a JPEG, and answered in all label spaces of the run, each of
which is timed for itself: its scores by the network, and its label map at the photo's own size.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import torch
from PIL import Image

import manyseg
from manyseg.inference.encoded_images import EncodedImages
from manyseg.serve.answers import answer
from manyseg.serve.images import decode
from manyseg.serve.served import Served


def main() -> None:
    """Print a row for every part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(4000, 3000))
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = manyseg.load(asked.run, device="cpu")
    served = Served("run", None, model, None)  # type: ignore[arg-type]
    buffer = io.BytesIO()
    with Image.open(asked.photo) as image:
        image.convert("RGB").resize(tuple(asked.size), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    last = time.process_time()

    def row(name: str) -> None:
        nonlocal last
        print(f"| {name} | {time.process_time() - last:.2f} |", flush=True)
        last = time.process_time()

    print("| part | seconds of the processor |")
    print("|---|---:|")
    shown, size = decode(buffer.getvalue(), 10**9, model.options.input_size)
    row(f"decode, to {shown.shape[2]}x{shown.shape[1]}")
    encoded = EncodedImages(model.method, shown[None], model.options, size)
    _ = encoded.features
    row("encode")
    for name in served.spaces:
        output = served.output(name)
        encoded.label_maps([output])
        row(f"{name}, {len(output.space)} classes")
    found = model.predict(Image.open(buffer), served.default)
    last = time.process_time()
    answer("run", {served.default: found})
    row("the answer of one label space")


if __name__ == "__main__":
    main()
