"""What is said of a command that is typed wrongly works."""

import pytest
from advice import Case, cases, check, remove, write

USAGE = {
    "card without guess": Case(
        "data -o x.toml", "-o, --choice and --force go with --guess FOLDER", "data --guess fine"
    ),
    "card without root": Case(
        "data fine.toml", "give the dataset's folder too: manyseg data CARD ROOT", "data fine.toml fine"
    ),
    "card and guess": Case("data fine.toml --guess fine", "manyseg data --guess FOLDER", "data --guess fine"),
    "pins": Case(
        "labels recipe.toml --by names --pins p.toml",
        "--pins is now called --constraints, and its keys must_link and cannot_link",
        (
            write("p.toml", 'must_link = ["fine:car = coarse:vehicle"]\n'),
            "labels recipe.toml --by names --constraints p.toml",
        ),
    ),
    "questions": Case(
        "labels recipe.toml --by names --questions 1",
        "name it with --constraints, it need not exist yet",
        "labels recipe.toml --by names --questions 1 --constraints new.toml",
    ),
    "bands": Case(
        "predict runs/multihead scene.tif --bands 1,2",
        "give three numbers from 1 on, as 4,3,2, or one",
        "predict runs/multihead scene.tif --bands 4,3,2",
    ),
    "range": Case(
        "predict runs/multihead deep.png --range 9",
        "give the values of black and white, as 0,4095",
        "predict runs/multihead deep.png --range 0,4095",
    ),
    "conflicts": Case(
        "eval runs/union --conflicts --json x.json", "it goes without other options", "eval runs/union --conflicts"
    ),
    "cross": Case("eval runs/multihead --cross --json x.json", "it goes without --json", "eval runs/multihead --cross"),
    "no folder to init": Case(
        "init",
        "name the folder of each dataset, as in: manyseg init data/a data/b",
        (remove("recipe.toml"), "init fine coarse"),
    ),
}


@pytest.mark.parametrize("case", cases(USAGE, {}))
def test_usage(case, place, monkeypatch):
    check(case, place, monkeypatch)
