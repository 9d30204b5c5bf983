"""`manyseg init`: from folders to a recipe that trains."""

from pathlib import Path

import layouts
import pytest
from typer.testing import CliRunner

from manyseg.cli import app
from manyseg.errors import UserError
from manyseg.runs import init
from manyseg.runs.recipe import read_recipe

SMALL = ("model.backbone=tiny", "model.pretrained=false", "model.channels=8", "train.steps=1", "data.workers=0")


def say(*words):
    result = CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with two datasets in it and one elsewhere that is called like one of them."""
    layouts.labelme(tmp_path / "work" / "streets")
    layouts.coco(tmp_path / "work" / "city")
    layouts.grey_named(tmp_path / "other" / "city")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("MANYSEG_DATA", "/nowhere")
    return tmp_path


def test_folders_become_cards_and_a_recipe_and_the_next_command_trains(place):
    out = say("init", "streets", "city", place / "other" / "city")
    assert out.splitlines()[-1] == "next: manyseg train recipe.toml --out runs/a"
    assert "with a question mark: " in out
    recipe = read_recipe("recipe.toml")
    assert [s.card for s in recipe.data.sets] == ["cards/streets.toml", "cards/city.toml", "cards/other-city.toml"]
    assert [s.root for s in recipe.data.sets] == ["streets", "city", str(place / "other" / "city")]
    # The rest is chosen by training.
    assert not {"model", "method", "train"} & recipe.model_fields_set
    assert not {"crop", "mix"} & recipe.data.model_fields_set
    assert [s.per_step for s in recipe.data.sets] == [None] * 3
    overrides = [word for assignment in SMALL for word in ("--set", assignment)]
    say("train", "recipe.toml", "--out", "runs/a", *overrides)
    assert (place / "work/runs/a/scores.json").is_file()


def test_nothing_is_replaced_unless_asked_and_nothing_written_before_that_is_known(place):
    (place / "work/cards").mkdir()
    (place / "work/cards/city.toml").write_text("mine")
    with pytest.raises(UserError, match=r"cards/city\.toml: is there already; .* --force"):
        say("init", "streets", "city")
    assert [p.name for p in (place / "work/cards").iterdir()] == ["city.toml"]
    assert not (place / "work/recipe.toml").exists()
    say("init", "streets", "city", "--force")
    assert (place / "work/cards/city.toml").read_text() != "mine"


def test_a_folder_that_is_not_understood_or_given_twice_is_named(place):
    (place / "work/empty").mkdir()
    with pytest.raises(UserError, match="empty: no known layout"):
        say("init", "streets", "empty")
    with pytest.raises(UserError, match="streets: is given twice"):
        say("init", "streets", "streets")
    assert not (place / "work/cards").exists()


def test_without_folders_a_terminal_is_asked_and_nothing_else(place, monkeypatch, capsys):
    with pytest.raises(UserError, match="no folder was given; name the folder of each dataset"):
        say("init")
    answers = iter(["streets", "nowhere", "city", ""])
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    assert init.asked_folders() == [Path("streets"), Path("city")]
    assert "nowhere: there is no such folder" in capsys.readouterr().out
