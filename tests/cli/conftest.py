"""Folders in which commands are typed: a small world, a recipe, photos, and finished runs."""

import re
import shutil

import numpy as np
import pytest
from advice import scene
from PIL import Image
from tiny import tiny_recipe
from typer.testing import CliRunner

from manyseg.cli import app

SETS = ("fine", "coarse")


@pytest.fixture(scope="session")
def runs(world, tmp_path_factory):
    """Finished runs of the world by their method's name."""
    made = {}
    place = tmp_path_factory.mktemp("made")
    for name in (*world.cards, *(p.name for p in world.cards.values())):
        (place / name).symlink_to(world.folder / name)

    def get(method):
        if method not in made:
            extra = f'taxonomy = "{world.truth}"\n' if method in ("htss", "manual") else ""
            recipe = place / f"{method}.toml"
            text = tiny_recipe(*SETS, method=method, unseen=["unseen"])
            recipe.write_text(text.replace("[method]\n", f"[method]\n{extra}"))
            result = CliRunner().invoke(app, ["train", str(recipe), "--out", str(place / "runs" / method)])
            assert result.exit_code == 0, result.output
            made[method] = place / "runs" / method
        return made[method]

    return get


@pytest.fixture
def place(world, runs, tmp_path, request):
    """A folder with the world, a recipe, photos, and copies of the finished runs that a test names."""
    for name in (*world.cards, *(p.name for p in world.cards.values()), world.truth.name):
        (tmp_path / name).symlink_to(world.folder / name)
    (tmp_path / "recipe.toml").write_text(tiny_recipe(*SETS, unseen=["unseen"]))
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
        shutil.copytree(runs(method), tmp_path / "runs" / method)
    return tmp_path
