"""What tests share: one torch thread, no way to the network, examples without a time limit, a world and runs of it."""

import os
import re
import shutil
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

# Every function of the package checks the shapes and types of the arrays that it gets and returns.
jaxtyping.install_import_hook("manyseg", "shapes.check_arrays")

torch.set_num_threads(1)
# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
# What starts the tests may ignore signals, as nohup does and a shell for what is in the background: tests send them.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """What is kept between runs is kept for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def unchecked():
    """Let arrays pass that are not as annotated, for tests of what the package itself says of them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The generated world, small, written once."""
    from manyseg.data.world import write_world

    return write_world(tmp_path_factory.mktemp("world"), train=6, val=3, size=(48, 64))


@pytest.fixture
def small(monkeypatch):
    """Let everything that asks timm for a plain transformer get a small one; gives the function that does."""
    import timm
    from small_transformers import create_small

    monkeypatch.setattr(timm, "create_model", create_small)
    return create_small


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory):
    """Finished runs of the world by their method's name."""
    from tiny import tiny_recipe
    from typer.testing import CliRunner

    from manyseg.cli import app

    made = {}
    place = tmp_path_factory.mktemp("made")
    for name in (*world.cards, *(p.name for p in world.cards.values())):
        (place / name).symlink_to(world.folder / name)

    def get(method):
        if method not in made:
            extra = f'taxonomy = "{world.truth}"\n' if method in ("htss", "manual") else ""
            recipe = place / f"{method}.toml"
            text = tiny_recipe("fine", "coarse", method=method, unseen=["unseen"])
            recipe.write_text(text.replace("[method]\n", f"[method]\n{extra}"))
            result = CliRunner().invoke(app, ["train", str(recipe), "--out", str(place / "runs" / method)])
            assert result.exit_code == 0, result.output
            made[method] = place / "runs" / method
        return made[method]

    return get


@pytest.fixture
def place(world, finished, tmp_path, request):
    """A folder with the world, a recipe, photos, and copies of the finished runs that a test names."""
    from advice import scene
    from tiny import tiny_recipe

    for name in (*world.cards, *(p.name for p in world.cards.values()), world.truth.name):
        (tmp_path / name).symlink_to(world.folder / name)
    (tmp_path / "recipe.toml").write_text(tiny_recipe("fine", "coarse", unseen=["unseen"]))
    (tmp_path / "photos").mkdir()
    (tmp_path / "empty").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{i}.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 16).save(tmp_path / "deep.png")
    scene(tmp_path)
    case = getattr(request.node, "callspec", None)
    typed = f"{case.params['case']}" if case else ""
    for method in set(re.findall(r"runs/(multihead|union|htss)", typed)):
        shutil.copytree(finished(method), tmp_path / "runs" / method)
    return tmp_path


def pytest_make_parametrize_id(config, val, argname):
    """Bytes are no names: an archive holds the time, and then processes that collect the same tests disagree."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None
