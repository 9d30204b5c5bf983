"""A server of tiny runs on the loopback, in a thread, and a way to ask it."""

import http.client
import io
import json
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_recipe

from manyseg.runs.run import train_recipe
from manyseg.serve.limits import Limits
from manyseg.serve.server import open_runs, server_of


def train(world, out, method, table=None):
    text = tiny_recipe("fine", "coarse", method=method)
    if table:
        text = text.replace(f'name = "{method}"', f'name = "{method}"\ntaxonomy = "{table}"')
    recipe = world.folder / f"serve-{method}.toml"
    recipe.write_text(text)
    return train_recipe(recipe, out=out / method, check=False)


@pytest.fixture(scope="session")
def folders(world, tmp_path_factory):
    """Two runs of the same datasets: a hierarchy over a table by hand, and a head for each dataset."""
    out = tmp_path_factory.mktemp("runs")
    table = world.folder / "serve.tsv"
    table.write_text(
        "unified\tfine\tcoarse\n"
        "sky\tsky\tsky\nbuilding\tbuilding\tscenery\ntree\ttree\tscenery\nroad\troad\troad\n"
        "lane marking\tlane marking\troad\nsidewalk\tsidewalk\tsidewalk\ncar\tcar\tvehicle\ntruck\ttruck\tvehicle\n"
        "person\tperson\tperson\n"
    )
    return [train(world, out, "htss", table), train(world, out, "multihead")]


@pytest.fixture(scope="session")
def runs(folders):
    return open_runs(folders)


class Site:
    """A server's address, and requests to it."""

    def __init__(self, port, server):
        self.port, self.server = port, server
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, path, body=None, method=None, **headers):
        """Return (status, headers, body); names of headers are given with underscores."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, path, body=None, **headers):
        status, _, text = self.ask(path, body, **headers)
        return status, json.loads(text)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextmanager
def served(runs, limits=None, **options):
    listening = socket.create_server(("127.0.0.1", 0))
    server = server_of(runs, limits or Limits(rate=1_000_000), **options)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Site(listening.getsockname()[1], server)
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def site(runs):
    """Both runs, without a limit of requests a minute."""
    with served(runs) as site:
        yield site


@pytest.fixture(scope="session")
def photo():
    """The bytes of a picture: sky above, road below, and noise."""
    rng = np.random.default_rng(0)
    pixels = np.full((48, 64, 3), (110, 150, 220), np.uint8)
    pixels[24:] = (92, 90, 96)
    return encoded(pixels + rng.integers(0, 30, pixels.shape, np.uint8))


def encoded(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()
