"""Datasets of the hub by name, by a stand-in of its API on the loopback."""

import layouts
import numpy as np
import pytest
from advice import follow
from hub_stand_in import connected
from typer.testing import CliRunner

from manyseg.cli import app
from manyseg.config import read_toml
from manyseg.data import hub_sets, load
from manyseg.data.check import check
from manyseg.data.guess import guess
from manyseg.errors import UserError

NAME = "hf://datasets/someone/streets"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with a dataset in Parquet files, a table of its classes, and a film that nobody needs."""
    hub_sets._fetched.cache_clear()
    layouts.parquet(tmp_path / "d")
    files = {p.relative_to(tmp_path / "d").as_posix(): p.read_bytes() for p in (tmp_path / "d").rglob("*.*")}
    with connected(monkeypatch, tmp_path) as stand_in:
        stand_in.repositories["datasets/someone/streets"] = {**files, "film.mp4": b"0" * 1000}
        yield stand_in


def seen(hub):
    return [path for method, path in hub.requests if "/resolve/" in path]


def test_a_set_is_guessed_checked_and_read_by_its_name(hub, tmp_path):
    guess(NAME)[0].write(tmp_path / "c.toml")
    assert f"--guess {NAME}`" in (tmp_path / "c.toml").read_text()
    assert [f for f in check(tmp_path / "c.toml", NAME) if f.severity == "error"] == []
    folder = load(tmp_path / "c.toml", NAME)
    assert (len(folder), folder.space.names) == (4, ("road", "car"))
    assert np.array_equal(folder.read(0).annotation.labels.numpy(), layouts.truth(0))
    assert seen(hub)
    assert not any("film" in path for path in seen(hub))


def test_a_recipe_trains_on_a_set_by_its_name_and_the_run_keeps_the_name(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANYSEG_DATA", str(tmp_path))  # For relative roots alone.

    def manyseg(*arguments):
        assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0

    manyseg("init", NAME)
    assert read_toml(tmp_path / "recipe.toml")["data"]["sets"][0]["root"] == NAME
    small = ("train.steps=1", 'model.backbone="tiny"', "model.pretrained=false", "data.crop=32", "data.workers=0")
    manyseg("train", "recipe.toml", "--out", "r", *(word for s in small for word in ("--set", s)))
    assert read_toml(tmp_path / "r/recipe.toml")["data"]["sets"][0]["root"] == NAME


def test_a_set_of_another_form_is_read_as_the_hub_converted_it(hub):
    files = hub.repositories.pop("datasets/someone/streets")
    hub.repositories["datasets/someone/streets"] = {"streets.py": b"", "pictures.zip": b""}
    with pytest.raises(UserError, match="no Parquet files of it; fetch it as it is: hf download"):
        guess(NAME)
    hub.repositories["datasets/someone/streets@refs/convert/parquet"] = files
    assert len(guess(NAME)[0].draft.classes) == 2
    assert not any("zip" in path for path in seen(hub))


def test_a_revision_can_be_named(hub):
    hub.repositories["datasets/someone/streets@v2"] = hub.repositories["datasets/someone/streets"]
    assert hub_sets.local_root(f"{NAME}@v2").is_dir()
    with pytest.raises(UserError, match="no Parquet files of it"):
        guess(f"{NAME}@v3")


def test_what_was_fetched_is_read_without_a_network(hub, monkeypatch):
    first = hub_sets.local_root(NAME)
    hub_sets._fetched.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert hub_sets.local_root(NAME) == first
    with pytest.raises(UserError, match="hf://datasets/someone/other: the hub cannot be reached"):
        guess("hf://datasets/someone/other")


def test_what_is_no_set_is_one_line(hub):
    with pytest.raises(UserError, match="there is no such repository"):
        guess("hf://datasets/someone/nothing")
    with pytest.raises(UserError, match="is no dataset on the hub; give hf://datasets/user/name"):
        guess("hf://datasets/a/b/c")


def test_a_set_is_named_as_advised(hub):
    for wrong, said in (
        ("hf://datasets/a/b/c", "give hf://datasets/user/name, or hf://datasets/user/name@revision"),
        ("hf://datasets/someone/nothing", "check the name, or log in"),
    ):
        follow(lambda wrong=wrong: guess(wrong), said, lambda: guess(NAME))


def test_a_set_without_parquet_files_is_fetched_as_it_is_as_advised(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.repositories["datasets/someone/streets"] = {"streets.py": b""}

    def fetched():
        layouts.yolo(tmp_path / "FOLDER")  # As the command of hf would.
        return guess("FOLDER")

    said = "hf download --repo-type dataset someone/streets --local-dir FOLDER"
    follow(lambda: guess(NAME), f"fetch it as it is: {said}", fetched)
