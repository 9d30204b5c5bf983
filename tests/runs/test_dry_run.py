"""What a run would do and need is found out before its first step, and nothing is written."""

import re

import pytest
from PIL import Image
from tiny import tiny_recipe

from manyseg.errors import UserError
from manyseg.runs import dry_run
from manyseg.runs.run import train_recipe


@pytest.fixture
def recipe(world):
    path = world.folder / "dry.toml"
    path.write_text(tiny_recipe("fine", "partial", unseen=("unseen",), steps=40))
    return path


def test_a_dry_run_says_what_a_run_needs_and_writes_nothing(recipe, tmp_path, capsys):
    out = tmp_path / "run"
    train_recipe(recipe, out=out, dry_run=True, overrides=["data.sets.0.per_step=3"])
    said = capsys.readouterr().out
    assert not out.exists()
    assert "40 steps of" in said
    assert re.search(r"files of \d+ of \d+ images of 5 splits: no error", said)
    assert "stage 'train': 40 steps of MultiHead" in said
    assert re.search(r"memory of each process, estimated: \d+ MiB", said)
    assert re.search(r"a step \S+ s \(cpu\), its images read in .*; 40 steps without evaluations \d+ seconds", said)
    assert "nothing was found that stops this run" in said


def test_memory_and_time_grow_with_the_pixels_of_a_step(recipe, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(
        dry_run, "_print_needs", lambda training, probes, pixels, reading: given.append((probes, pixels))
    )
    for overrides in ([], ["data.sets.0.per_step=3"], ["data.crop=[64,32]"]):
        train_recipe(recipe, out=tmp_path / "run", dry_run=True, overrides=overrides)
    assert [pixels for _, pixels in given] == [2 * 32 * 32, 4 * 32 * 32, 2 * 64 * 32]
    probe = given[0][0]["train"]
    # Weights, their gradients and the two moments of AdamW, 4 bytes each.
    assert probe.fixed % 16 == 0
    assert probe.activations > 3 * 8 * 4 / 16, "the embedding alone has 8 channels at a quarter of each side"


def test_stages_that_need_an_earlier_one_are_named_and_not_tried(recipe, tmp_path, capsys):
    train_recipe(recipe, out=tmp_path / "run", dry_run=True, overrides=["method.name=uniseg"])
    said = capsys.readouterr().out
    assert "of what an earlier stage finds, and not tried" in said
    assert "memory of each process" in said


def test_a_stage_whose_label_space_is_proposed_is_tried_as_the_run_would_propose_it(recipe, tmp_path, capsys):
    overrides = ["method={ name = 'joint', taxonomy = 'proposal' }"]
    train_recipe(recipe, out=tmp_path / "run", dry_run=True, overrides=overrides)
    said = capsys.readouterr().out
    assert re.search(r"stage 'train': 40 steps of Joint\nmemory of each process, estimated: \d+ MiB", said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.pretrained=none.safetensors", "model.pretrained: there is no file"),
        ("model.init=none.safetensors", "model.init: there is no file"),
        ("method={ name = 'manual', taxonomy = 'none.tsv' }", "taxonomy of stage 'train': there is no file"),
        ("test.sets.fien.flip=true", "test.sets.fien: no dataset of that name is evaluated, did you mean 'fine'"),
        ("data.sets.0.root=nowhere", "there is no such folder"),
    ],
)
def test_what_would_stop_a_run_is_an_error_of_its_dry_run(recipe, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        train_recipe(recipe, out=tmp_path / "run", dry_run=True, overrides=[override])


def test_files_at_fault_are_named_and_a_run_that_is_there_is_no_place_for_another(world, recipe, tmp_path, capsys):
    train_recipe(recipe, out=tmp_path / "run", overrides=["train.steps=1"])
    with pytest.raises(UserError, match="a run is there"):
        train_recipe(recipe, out=tmp_path / "run", dry_run=True)
    name = (world.folder / "unseen/val.txt").read_text().split()[0]
    path = world.folder / f"unseen/masks/{name}.png"
    before = path.read_bytes()
    try:
        Image.new("L", (3, 3)).save(path)
        with pytest.raises(UserError, match="1 kind of error in the data"):
            train_recipe(recipe, out=tmp_path / "other", dry_run=True)
    finally:
        path.write_bytes(before)
    assert f"{name}.png" in capsys.readouterr().out
