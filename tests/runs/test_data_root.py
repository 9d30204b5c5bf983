"""Where relative roots of datasets start: option, recipe, environment variable, or recipe's folder."""

import pytest

from manyseg.errors import UserError
from manyseg.runs.recipe import read_recipe
from manyseg.runs.run import Run, train_recipe

RECIPE = """
[data]
crop = [32, 48]
workers = 0
sets = [ { card = "fine.toml", root = "fine", per_step = 1 } ]
unseen = [ { card = "unseen.toml", root = "unseen" } ]
[model]
backbone = "tiny"
pretrained = false
channels = 8
[method]
name = "multihead"
[train]
steps = 1
"""


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv("MANYSEG_DATA", raising=False)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def roots(recipe):
    return [str(recipe.base / e.root) for e in (*recipe.data.sets, *recipe.data.unseen)]


def test_roots_start_from_the_recipe_without_anything_else(recipe, tmp_path):
    assert roots(read_recipe(recipe)) == [str(tmp_path / "fine"), str(tmp_path / "unseen")]


def test_the_environment_variable_stands_in_and_the_recipe_and_the_option_win(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("MANYSEG_DATA", "/env")
    assert roots(read_recipe(recipe)) == ["/env/fine", "/env/unseen"]
    recipe.write_text(RECIPE.replace("[data]", '[data]\nroot = "sub"'))
    assert roots(read_recipe(recipe)) == [str(tmp_path / "sub/fine"), str(tmp_path / "sub/unseen")]
    assert roots(read_recipe(recipe, data_root="/option")) == ["/option/fine", "/option/unseen"]


def test_an_option_starts_from_where_the_command_is_run(recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert roots(read_recipe(recipe, data_root="here"))[0] == str(tmp_path / "here/fine")


def test_absolute_roots_stay(recipe):
    recipe.write_text(RECIPE.replace('root = "fine"', 'root = "/abs/fine"'))
    assert roots(read_recipe(recipe, data_root="/option")) == ["/abs/fine", "/option/unseen"]


def test_a_root_that_is_not_there_says_how_to_name_the_place_of_all(recipe, world):
    recipe.write_text(RECIPE.replace("fine.toml", str(world.cards["fine"])))
    read = read_recipe(recipe)
    with pytest.raises(UserError, match=r"fine: there is no such folder for dataset 'fine'.*--data-root.*MANYSEG_DATA"):
        read.data.sets[0].open_train(read.base)


def test_a_run_keeps_its_roots_whatever_the_variable_says_later(world, tmp_path, monkeypatch):
    path = tmp_path / "far" / "recipe.toml"
    path.parent.mkdir()
    text = RECIPE.replace("fine.toml", str(world.cards["fine"])).replace("unseen.toml", str(world.cards["unseen"]))
    path.write_text(text)
    run = train_recipe(path, out=tmp_path / "run", data_root=world.folder)
    monkeypatch.setenv("MANYSEG_DATA", str(tmp_path / "nowhere"))
    opened = Run.open(run).recipe
    assert len(opened.data.sets[0].open_train(opened.base)) == 6
