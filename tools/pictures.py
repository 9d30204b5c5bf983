"""The pictures of the README: the page of `manyseg serve`, and the workbench of labels, of runs on the generated world.

    python tools/pictures.py [--out docs/pictures] [--steps 300]

It trains two runs of the demo, `htss` and `multihead` (a minute or two on a CPU), serves the first on the loopback, and
looks at both pages with Chromium, as the tests do. Needs the extras `serve` and `offline`.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from browser import Tab

from manyseg import atomic
from manyseg.data.world import CAMERAS, scene, write_world
from manyseg.demo import RECIPE
from manyseg.runs.propose import propose_and_report
from manyseg.runs.run import train_recipe
from manyseg.serve.limits import Limits
from manyseg.serve.server import open_runs, server_of

SIZE = (1240, 800)
"""Width and height of the pictures."""

PHOTOS = 6
"""Photos in the page, of which the one at `SHOWN` is looked at, with the pointer `AT` these shares of it."""

SHOWN = 4
AT = (0.72, 0.6)


def main() -> None:
    """Train, serve, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        world = write_world(folder / "world")
        runs = {}
        for method, more in (("htss", f'taxonomy = "world/{world.truth.name}"'), ("multihead", "")):
            recipe = folder / f"{method}.toml"
            method_table = f'name = "{method}"\n{more}'
            atomic.write(recipe, RECIPE.format(method=method_table, steps=options.steps, eval_every=options.steps))
            runs[method] = train_recipe(recipe, out=folder / "streets" / method)
        propose_and_report([runs["multihead"]], by="both", html=folder / "labels.html")
        with Tab(folder, *SIZE) as tab:
            photos = [_photo(folder / f"street {i + 1}.png", i) for i in range(PHOTOS)]
            _serve(tab, runs["htss"], photos, options.out / "page.webp")
            _labels(tab, folder / "labels.html", options.out / "labels.webp")
            if tab.errors:
                sys.exit(f"the pages had errors: {tab.errors}")


def _photo(path: Path, number: int) -> Path:
    image, _, _ = scene(CAMERAS[3], (120, 192), np.random.default_rng([7, number]))
    Image.fromarray(image).save(path)
    return path


def _serve(tab: Tab, run: Path, photos: list[Path], out: Path) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    server = server_of(open_runs([run]), Limits())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.05)
        tab.open(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        tab.until("runs.length")
        tab.choose("#choose", photos)
        tab.until("photos.length && photos.every((p) => p.state === 'done')")
        tab.run(f"choose(photos[{SHOWN}])")
        tab.until("runs[0].spaces.every((s) => mapOf(runs[0], s.labels)?.ready)")
        box = tab.run("(() => { const b = document.querySelector('.sheet').getBoundingClientRect(); "
                      "return [b.left, b.top, b.width, b.height]; })()")  # fmt: skip
        tab.point(box[0] + AT[0] * box[2], box[1] + AT[1] * box[3])
        _keep(tab, out)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def _labels(tab: Tab, page: Path, out: Path) -> None:
    tab.call("Page.navigate", url=page.as_uri())
    tab.until("location.protocol === 'file:' && document.readyState === 'complete'")
    tab.run("document.querySelector('#h-review').scrollIntoView()")
    _keep(tab, out)


def _keep(tab: Tab, out: Path) -> None:
    """Write what is seen, once it has been drawn."""
    tab.run("new Promise((drawn) => setTimeout(drawn, 500))")
    atomic.write(out, tab.picture("webp", 82))
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
