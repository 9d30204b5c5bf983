"""Every recipe and taxonomy that the project ships can be read."""

from pathlib import Path

import pytest

from manyseg.data import read_card
from manyseg.labels import Taxonomy
from manyseg.runs.recipe import read_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*/*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_shipped_recipe_is_valid_and_says_how_it_is_run(path):
    recipe = read_recipe(path)
    assert recipe.stages
    for entry in (*recipe.data.sets, *recipe.data.unseen):
        assert len(read_card(recipe.base / entry.card).space) > 1
        assert ".." not in entry.root, "roots start from the data root"
    head = path.read_text().split("\n\n")[0]
    assert f"manyseg train recipes/{path.parent.name}/{path.name}" in head


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
