"""Latency of the API of `manyseg serve`, with one client and with many at once, with batches and without.

    python benchmarks/serve.py [--requests N] [--threads N]

A network of the demo's size with random weights is served on the loopback by a process of its own. Each client sends
one photo after the other and waits for its answer: `/api/predict` in all label spaces of three datasets, as the page
does, and `/api/mask` in one. "alone" predicts every image by itself, the reference; "together" lets images that wait
and fit share a pass of the network. Both serve the same requests in turn. Times are those that clients see.
"""

from __future__ import annotations

import argparse
import http.client
import io
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from manyseg.data.card import read_card
from manyseg.data.world import CAMERAS, scene, write_world
from manyseg.inference.options import PHOTOS
from manyseg.labels import Taxonomy
from manyseg.methods import find_method
from manyseg.models import PixelEncoder
from manyseg.prediction.model import Model
from manyseg.serve import worker
from manyseg.serve.limits import Limits
from manyseg.serve.served import Served
from manyseg.serve.server import server_of

CLIENTS = (1, 8, 32)

SIZES = ((96, 128), (192, 256))
"""(height, width) of photos."""


def network(threads: int) -> Model:
    """Return a model of the demo's size, of three datasets."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        world = write_world(folder, train=1, val=1)
        spaces = [read_card(world.cards[name]).space for name in ("fine", "coarse", "partial")]
        taxonomy = Taxonomy.read(world.truth, spaces)
    encoder = PixelEncoder.build(backbone="tiny", pretrained=False, channels=48)
    method = find_method("manual")(encoder, spaces, taxonomy=taxonomy)
    return Model(method, spaces, PHOTOS)


def passes(model: Model) -> None:
    """Print the processor's time of an image, alone and in a pass that is shared; others' load does not change it."""
    for size in SIZES:
        most = worker.images_at_once(model.method.device, size)
        image, _, _ = scene(CAMERAS[0], size, np.random.default_rng(0))
        shown = torch.from_numpy(image).permute(2, 0, 1)[None]
        for name, names in (("/api/predict", ["unified", *(s.name for s in model.spaces)]), ("/api/mask", ["unified"])):
            outputs = [model.output(one) for one in names]
            spent = []
            for count in (1, most):
                model.predict_spaces(shown.repeat(count, 1, 1, 1), size, outputs)
                start = time.process_time()
                for _ in range(12 // count + 1):
                    model.predict_spaces(shown.repeat(count, 1, 1, 1), size, outputs)
                spent.append(1000 * (time.process_time() - start) / count / (12 // count + 1))
            print(
                f"{size[1]}x{size[0]} {name}: {spent[0]:.1f} ms of processor an image alone, {spent[1]:.1f} of {most}"
            )


def serve(listening: socket.socket, together: bool, threads: int, ready: multiprocessing.Event) -> None:
    """Serve until the process is ended."""
    served = Served("benchmark", None, network(threads), None)  # type: ignore[arg-type]
    server = server_of([served], Limits(rate=10**9))
    alone = patch.object(worker, "images_at_once", lambda *_: 1)
    if not together:
        alone.start()
    ready.set()  # Connections wait in the socket until it takes them.
    server.run(sockets=[listening])


@contextmanager
def running(together: bool, threads: int) -> Iterator[int]:
    """Serve in a process of its own, and give its port."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = context.Process(target=serve, args=(listening, together, threads, ready), daemon=True)
        process.start()
        try:
            ready.wait(120)
            yield listening.getsockname()[1]
        finally:
            process.terminate()
            process.join()


def photo(size: tuple[int, int]) -> bytes:
    image, _, _ = scene(CAMERAS[0], size, np.random.default_rng(0))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def times(port: int, path: str, body: bytes, clients: int, requests: int) -> tuple[list[float], float]:
    """Return the seconds of every request, and of all together."""

    def client(_: int) -> list[float]:
        out = []
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for _ in range(max(1, requests // clients)):
            start = time.perf_counter()
            connection.request("POST", path, body, {"content-type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            out.append(time.perf_counter() - start)
        connection.close()
        return out

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = [t for part in pool.map(client, range(clients)) for t in part]
    return found, time.perf_counter() - start


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    passes(network(options.threads))
    print("| photo | path | clients | batches | median ms | 95 % ms | images/s |")
    print("|---|---|---:|---|---:|---:|---:|")
    with running(False, options.threads) as alone, running(True, options.threads) as together:
        for size in SIZES:
            body = photo(size)
            for path in ("/api/predict", "/api/mask"):
                for port in (alone, together):
                    times(port, path, body, 2, 4)
                for clients in CLIENTS:
                    for name, port in (("alone", alone), ("together", together)):
                        found, whole = times(port, path, body, clients, options.requests)
                        found = [1000 * t for t in found]
                        worst = statistics.quantiles(found, n=20)[-1]
                        rate = len(found) / whole
                        print(
                            f"| {size[1]}x{size[0]} | {path} | {clients} | {name} | {statistics.median(found):.0f} "
                            f"| {worst:.0f} | {rate:.1f} |",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
