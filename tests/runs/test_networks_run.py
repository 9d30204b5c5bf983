"""Whole runs on plain transformers: trained, gone on with, loaded from their folder without published weights."""

import pytest
import torch
from safetensors.torch import save_file

from manyseg.config import read_toml
from manyseg.runs.run import Run, train_recipe

DATA = """
[data]
workers = 0
crop = 32
sets = [
    { card = "fine.toml", root = "fine", per_step = 1 },
    { card = "partial.toml", root = "partial", per_step = 1 },
]

[train]
steps = 2
"""


@pytest.fixture
def recipe(world):
    path = world.folder / "networks.toml"
    path.write_text(DATA)
    return path


def test_a_frozen_transformer_stays_as_it_was_loaded_and_is_tested_in_windows(recipe, small, tmp_path, capsys):
    weights = small("vit_small_patch16_dinov3", num_classes=0).state_dict()
    save_file({**weights, "head.weight": torch.zeros(2, 32)}, tmp_path / "dinov3.safetensors")
    model = ["backbone=vit_small_patch16_dinov3", "features=layers", "trainable=none", "neck=linear", "channels=8"]
    overrides = [f"model.{key}" for key in (*model, f"pretrained={tmp_path / 'dinov3.safetensors'}")]
    run = train_recipe(recipe, out=tmp_path / "run", overrides=overrides)
    said = capsys.readouterr().out
    count = len(weights)
    assert f"backbone vit_small_patch16_dinov3: {count} of {count} tensors loaded; 1 not used, as the network" in said
    assert "test.window=[32, 32]  # a plain transformer is best at the size it is trained at" in said
    assert read_toml(run / "recipe.toml")["test"]["window"] == [32, 32]
    (tmp_path / "dinov3.safetensors").unlink()
    method = Run.open(run).load_model()
    found = method.pixel_encoder.backbone.net.vit.state_dict()
    assert all(torch.equal(found[k], v) for k, v in weights.items() if k in found)


def test_queries_inside_a_transformer_are_trained_annealed_and_loaded(recipe, small, tmp_path):
    overrides = [
        "model.backbone=vit_small_patch14_reg4_dinov2", "model.pretrained=false", "method.name=lmseg",
        "method.decoder=eomt", "method.classifier=heads", "method.blocks=2", "method.queries=40",
    ]  # fmt: skip
    run = train_recipe(recipe, out=tmp_path / "run", overrides=overrides)
    # In the second of two steps, half is done: of four parts the first block's own is behind.
    assert Run.open(run).load_model().decoder.mask_probability.tolist() == [0, 1]
