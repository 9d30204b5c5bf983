"""A training step with ever more datasets at equal images: what many small batches cost.

    python benchmarks/dataset_growth.py [--images 30] [--side 96] [--methods multihead,htss]

Datasets of 20 classes of their own names, one network (tf_efficientnet_lite0), forward and backward, one thread, the
numbers of datasets in turns. Ratios are CPU seconds of a step over those with one dataset; the goal is 1.15 at 30.
The last line is JSON.
"""

import argparse
import json
import statistics
import time

import torch

from manyseg.data.annotation import Dense
from manyseg.data.batch import Batch
from manyseg.labels import LabelSpace
from manyseg.methods import find_method
from manyseg.models import PixelEncoder

CLASSES = 20


def batches(spaces: list[LabelSpace], images: int, side: int) -> list[Batch]:
    share = images // len(spaces)
    cells = torch.randint(0, CLASSES, (share, side // 16, side // 16), generator=torch.Generator().manual_seed(0))
    labels = cells.repeat_interleave(16, 1).repeat_interleave(16, 2)
    image = torch.zeros(share, 3, side, side, dtype=torch.uint8)
    return [Batch(space, tuple(map(str, range(share))), image, Dense(labels)) for space in spaces]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=30, help="of a step in all")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--datasets", type=int, nargs="+", default=[1, 3, 10, 30])
    parser.add_argument("--methods", default="multihead,htss")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {}
    for name in args.methods.split(","):
        models, seconds = {}, {count: [] for count in args.datasets}
        for count in args.datasets:
            spaces = [LabelSpace.of(f"set{d}", [f"s{d}c{i}" for i in range(CLASSES)]) for d in range(count)]
            torch.manual_seed(0)
            encoder = PixelEncoder.build(backbone="tf_efficientnet_lite0", pretrained=False, channels=128)
            options = {"taxonomy": "names"} if name in ("htss", "joint") else {}
            model = find_method(name)(encoder, spaces, **options).train()
            models[count] = (model, batches(spaces, args.images, args.side))
        for r in range(args.rounds + 1):
            for count, (model, given) in models.items():
                start = time.process_time()
                torch.stack(list(model(given).values())).sum().backward()
                model.zero_grad()
                if r:
                    seconds[count].append(time.process_time() - start)
        least = {count: statistics.median(values) for count, values in seconds.items()}
        result[name] = {count: round(value / least[args.datasets[0]], 3) for count, value in least.items()}
        print(name, result[name], flush=True)
    print(json.dumps({"benchmark": "dataset_growth", **result}))


if __name__ == "__main__":
    main()
