"""What many classes cost beyond the network: to build each method and to take its first step.

    python benchmarks/class_growth.py [--datasets 50] [--classes 200] [--methods union,htss]

Every dataset has `classes` classes, a tenth of which are each nine classes of the next dataset. One image of 32x32
pixels of each dataset goes through the network "tiny" of 32 channels, forward and backward. Every method runs in a
process of its own, with one thread. "network" is the same step without a method: the mean of the embedding. Seconds are
those of the processor. The last line is JSON; the goal is 10 s for building and the first step together.
"""

import argparse
import json
import multiprocessing
import resource
import time

import torch

from manyseg.data.annotation import Dense
from manyseg.data.batch import Batch
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.methods import METHODS, find_method
from manyseg.methods.autouniseg_options import GraphOptions
from manyseg.models import PixelEncoder

SIDE, PARTS, CHANNELS = 32, 9, 32


def label_spaces(datasets: int, classes: int) -> tuple[list[LabelSpace], Taxonomy]:
    """Return label spaces and their true taxonomy: fine classes, and wholes of classes of the next dataset."""
    wholes = classes // 10
    spaces = [
        LabelSpace.of(f"set{d}", [f"s{d}c{i}" for i in range(classes - wholes)] + [f"s{d}w{i}" for i in range(wholes)])
        for d in range(datasets)
    ]
    groups = []
    for d, space in enumerate(spaces):
        before = spaces[d - 1]
        for i, name in enumerate(space.names[: classes - wholes]):
            whole = [(before.name, before.names[classes - wholes + i // PARTS])] if i // PARTS < wholes else []
            groups.append([(space.name, name), *whole])
    return spaces, Taxonomy.from_groups(spaces, groups)


def options(method: str, taxonomy: Taxonomy) -> dict[str, object]:
    """Return what a method needs to be built without a text encoder and without statistics."""
    return {
        "manual": {"taxonomy": taxonomy},
        "htss": {"taxonomy": taxonomy},
        "joint": {"taxonomy": taxonomy, "refine": False},
        "lmseg": {"classifier": "heads", "queries": 8, "blocks": 2},
        "autouniseg": {"init": "names", "graph": GraphOptions(features="learned", turn=10)},
        "unified_nodes": {"init": "names"},
    }.get(method, {})


def step_seconds(step) -> float:
    start = time.process_time()
    torch.autograd.backward(step())
    return time.process_time() - start


def measure(method: str, datasets: int, classes: int, answer) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spaces, taxonomy = label_spaces(datasets, classes)
    batches = [
        Batch(
            space,
            ("image",),
            torch.randint(0, 255, (1, 3, SIDE, SIDE), dtype=torch.uint8),
            Dense(
                torch.randint(0, classes, (SIDE // 8, SIDE // 8)).repeat_interleave(8, 0).repeat_interleave(8, 1)[None]
            ),
        )
        for space in spaces
    ]
    encoder = PixelEncoder.build(backbone="tiny", pretrained=False, channels=CHANNELS)
    images = torch.cat([b.image for b in batches])
    step_seconds(lambda: encoder(images[:1]).embedding.mean())
    network = step_seconds(lambda: encoder(images).embedding.mean())
    start = time.process_time()
    model = find_method(method)(encoder, spaces, **options(method, taxonomy)).train()
    build = time.process_time() - start

    def step() -> torch.Tensor:
        model.on_step(0)
        return torch.stack([v.float() for v in model(batches).values()]).sum()

    first, second = step_seconds(step), step_seconds(step)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    answer.send(
        {"build": build, "first": first - network, "later": second - network, "network": network, "GiB": memory}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=50)
    parser.add_argument("--classes", type=int, default=200, help="of each dataset")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--limit", type=float, default=120, help="seconds after which a method is given up")
    args = parser.parse_args()
    found = {}
    for method in args.methods.split(","):
        context = multiprocessing.get_context("spawn")
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=measure, args=(method, args.datasets, args.classes, send))
        process.start()
        send.close()
        try:
            seconds = receive.recv() if receive.poll(args.limit) else None
        except EOFError:
            seconds = None
        process.kill()
        process.join()
        found[method] = None if seconds is None else {name: round(value, 2) for name, value in seconds.items()}
        print(f"{method:14}", found[method] or f"not done in {args.limit:.0f} s", flush=True)
    print(json.dumps({"benchmark": "class_growth", "classes": args.datasets * args.classes, **found}))


if __name__ == "__main__":
    main()
