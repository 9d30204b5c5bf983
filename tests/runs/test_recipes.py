"""Every recipe and taxonomy that the project ships can be read."""

from copy import deepcopy
from pathlib import Path

import pytest

from manyseg.config import to_toml
from manyseg.data import read_card
from manyseg.errors import UserError
from manyseg.labels import Taxonomy
from manyseg.runs.recipe import read_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*/*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_shipped_recipe_is_valid_and_says_how_it_is_run(path):
    recipe = read_recipe(path)
    assert recipe.stages
    for entry in (*recipe.data.sets, *recipe.data.unseen):
        assert len(entry.read_card(recipe.base).space) > 1
        assert ".." not in entry.root, "roots start from the data root"
    head = path.read_text().split("\n\n")[0]
    assert f"manyseg train recipes/{path.parent.name}/{path.name}" in head


def test_a_dict_is_a_recipe_as_a_file_is(world, tmp_path, monkeypatch):
    monkeypatch.chdir(world.folder)
    sets = [{"card": str(world.cards["fine"]), "root": "fine"}]
    given = {"seed": 3, "data": {"crop": [32, 32], "sets": sets}, "train": {"steps": 4}}
    Path("dict.toml").write_text(to_toml(given))
    before = deepcopy(given)
    from_dict, from_file = (read_recipe(source, ["train.steps=9"]) for source in (given, Path("dict.toml")))
    assert from_dict.model_dump() == from_file.model_dump()
    assert (from_dict.train.steps, from_dict.base) == (9, Path())
    assert given == before
    with pytest.raises(UserError, match=r"^recipe: train\.stepz: unknown key.*'steps'"):
        read_recipe({**given, "train": {"stepz": 4}})


def test_a_list_that_is_too_short_is_named_and_not_its_place_that_is_missing():
    with pytest.raises(UserError, match=r"^recipe: data\.crop: "):
        read_recipe({"data": {"crop": [32], "sets": [{"card": "a.toml", "root": "a"}]}})


def test_there_are_recipes():
    assert len(RECIPES) >= 9


def test_the_roads_taxonomy_by_hand_fits_its_cards_and_is_exclusive():
    spaces = [
        read_card(ROOT / "recipes" / "roads" / "cards" / f"{n}.toml").space
        for n in ("cityscapes", "camvid", "idd_lite")
    ]
    taxonomy = Taxonomy.read(ROOT / "taxonomies" / "roads.tsv", spaces)
    assert len(taxonomy.unified) == 36
    assert all(taxonomy.exclusive(s.name) for s in spaces)
