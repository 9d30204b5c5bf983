"""Statistics between stages: who asks for them, what they are, and that they are collected once."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from manyseg.data.card import read_card
from manyseg.data.folder import Folder
from manyseg.errors import UserError
from manyseg.evaluation.dataset_pass import image_hashes
from manyseg.evaluation.evaluate import collect
from manyseg.methods import METHODS
from manyseg.methods.baselines import MultiHead
from manyseg.methods.sources import StatisticsSource, resolve_statistics
from manyseg.relate.statistics import UNIFIED, Statistics
from manyseg.runs import stages
from manyseg.runs.recipe import build_method, read_recipe
from manyseg.runs.run import Run, train_recipe
from manyseg.training import checkpoint

RECIPE = """
seed = 3
[data]
crop = [32, 32]
workers = 0
sets = [
    { card = "fine.toml", root = "fine", per_step = 2, statistics_split = "train" },
    { card = "coarse.toml", root = "coarse", per_step = 2 },
]
[model]
backbone = "tiny"
pretrained = false
channels = 8
[method]
name = "reads"
[train]
steps = 4
log_every = 1
[[stage]]
name = "early"
steps = 2
[[stage]]
name = "late"
steps = 2
method = { statistics = "stage:early" }
"""


class Reads(MultiHead):
    """Is built from statistics, and has activations: the first channels of the embedding."""

    def __init__(
        self,
        pixel_encoder,
        spaces,
        *,
        statistics: StatisticsSource | None = None,
        table: Literal["none"] | Path = "none",
        ohem: float | None = None,
    ) -> None:
        super().__init__(pixel_encoder, spaces, ohem=ohem)
        self.statistics = None if statistics is None else resolve_statistics(statistics)
        self.table = table

    @property
    def activation(self):
        return lambda features: self.head(features.embedding)


@pytest.fixture
def recipe(world, monkeypatch):
    monkeypatch.setitem(METHODS, "reads", f"{__name__}:Reads")
    path = world.folder / "statistics.toml"
    path.write_text(RECIPE)
    return path


def folder(world, name, split):
    return Folder(read_card(world.folder / f"{name}.toml"), world.folder / name, split)


def test_a_stage_is_built_from_what_the_stage_before_it_says_of_every_dataset(recipe, world, tmp_path):
    run = train_recipe(recipe, out=tmp_path / "run")
    found = Statistics.load(run / "stages/early/statistics.npz")

    read = read_recipe(recipe)
    method = build_method(read, read.stages[0], Run.open(run).spaces, run, pretrained=False)
    checkpoint.read(run / "stages/early").load_into(method)
    method.pixel_encoder.to(memory_format=torch.channels_last)  # As trained: sums then round alike.
    # Of the set that names a split that split, of the other what is trained on, at native size.
    folders = [folder(world, "fine", "train"), folder(world, "coarse", "train")]
    expected = collect(method, folders, read.test, activation=method.activation)
    assert found.key == expected.key
    assert set(found.counts) == {(a, b) for a in ("fine", "coarse") for b in ("fine", "coarse", UNIFIED)}
    for name, part in zip(("fine", "coarse"), folders, strict=True):
        assert (found.images[name] == image_hashes(part)).all()
        assert found.sums[name] == pytest.approx(expected.sums[name], rel=1e-3)
        assert found.pixels[name].sum() > 0
    for pair, counts in expected.counts.items():
        assert (found.counts[pair] == counts).all()
    # A run is read back with them.
    assert Run.open(run).load_model().statistics.key == found.key
    assert 'statistics = "stage:early"' in (run / "recipe.toml").read_text()


def test_nothing_is_collected_where_no_stage_asks(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "collect", None)
    recipe.write_text(RECIPE.replace('method = { statistics = "stage:early" }', ""))
    run = train_recipe(recipe, out=tmp_path / "run")
    assert sorted(p.name for p in (run / "stages/early").iterdir()) == [
        "model.safetensors", "state.json", "taxonomy.tsv",
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["before collecting", "after collecting", "in the late stage"])
def test_a_run_stopped_anywhere_collects_once_and_goes_on_as_if_it_had_not_been(recipe, tmp_path, monkeypatch, place):
    recipe.write_text(RECIPE.replace("log_every = 1", "log_every = 1\ncheckpoint_every = 1\neval_every = 1"))
    whole = train_recipe(recipe, out=tmp_path / "whole")
    evaluate, keep, calls = stages.Training._evaluate, stages.Training._keep, []

    def counting(*args, **options):
        calls.append(1)
        if place == "before collecting" and len(calls) == 1:
            raise KeyboardInterrupt
        return collect(*args, **options)

    def stopping(self, method):
        if place == "in the late stage" and method.statistics is not None:
            raise KeyboardInterrupt
        return evaluate(self, method)

    def ending(self, stage, method):
        keep(self, stage, method)
        if place == "after collecting":
            raise KeyboardInterrupt

    monkeypatch.setattr(stages, "collect", counting)
    monkeypatch.setattr(stages.Training, "_evaluate", stopping)
    monkeypatch.setattr(stages.Training, "_keep", ending)
    with pytest.raises(KeyboardInterrupt):
        train_recipe(recipe, out=tmp_path / "cut")
    monkeypatch.setattr(stages.Training, "_evaluate", evaluate)
    monkeypatch.setattr(stages.Training, "_keep", keep)
    cut = train_recipe(recipe, out=tmp_path / "cut", resume=True)
    assert len(calls) == (2 if place == "before collecting" else 1)
    for name in ("scores.json", "best/model.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    ours, theirs = (Statistics.load(run / "stages/early/statistics.npz") for run in (cut, whole))
    assert ours.key == theirs.key
    assert (ours.sums["fine"] == theirs.sums["fine"]).all()


def test_a_split_that_is_not_there_is_an_error_before_the_first_step(recipe, tmp_path):
    recipe.write_text(RECIPE.replace('statistics_split = "train"', 'statistics_split = "held"'))
    with pytest.raises(UserError, match="held"):
        train_recipe(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_statistics_of_a_later_stage_are_refused(recipe):
    with pytest.raises(UserError, match=r"stage.late.method.statistics is 'stage:late'; the stages before it: early"):
        read_recipe(recipe, ["stage.1.method.statistics=stage:late"])


def test_a_word_that_an_option_knows_is_no_path(recipe, tmp_path):
    read = read_recipe(recipe, ["stage.1.method.table=t.tsv"])
    assert [s.options.get("table") for s in read.stages] == [None, recipe.parent / "t.tsv"]
    assert read_recipe(recipe, ["method.table=none"]).stages[0].options == {"table": "none"}
    (recipe.parent / "t.tsv").write_text("x")
    tree, files = read.portable(tmp_path)
    assert tree["method"]["table"] == "none"
    assert files == {"files/late-table.tsv": recipe.parent / "t.tsv"}


def test_files_of_statistics_can_be_named_too(recipe, tmp_path):
    run = train_recipe(recipe, out=tmp_path / "run")
    file = run / "stages/early/statistics.npz"
    again = train_recipe(
        recipe, out=tmp_path / "again", overrides=[f"stage.1.method.statistics={file}", "train.steps=2"]
    )
    method = Run.open(again).load_model()
    assert method.statistics.key == Statistics.load(file).key
    assert not (again / "stages/early/statistics.npz").exists()
    assert np.isfinite(method.statistics.sums["coarse"]).all()
    with torch.no_grad():
        assert method.activation(method.pixel_encoder(torch.zeros(1, 3, 8, 8))).shape[1] == len(method.taxonomy.unified)
