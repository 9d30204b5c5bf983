"""A run goes on with another number of processes, and with its trunk divided among them or not."""

import hashlib
import json
from pathlib import Path

import pytest
from tiny import tiny_recipe
from two_processes import two_processes

from manyseg.errors import UserError
from manyseg.runs.run import train_recipe
from manyseg.training import checkpoint
from manyseg.training.options import TrainOptions
from manyseg.training.sharding import can_shard, check_sharding

ROOT = Path(__file__).parents[2]

OPTIONS = {"steps": 4, "lr": 0.003, "log_every": 1, "eval_every": 2, "checkpoint_every": 2, "accumulate": 2}
RECIPE = tiny_recipe("fine", "partial", per_step=2, **OPTIONS, ema=0.5, clip=0.5)

# What torchrun starts; a run is stopped after the evaluation in its middle by "stop".
SCRIPT = """
import sys
import torch
from manyseg.errors import UserError
from manyseg.runs import stages
from manyseg.runs.run import train_recipe
from manyseg.training import sharding

torch.set_num_threads(1)
sharding.LEAST = 500
recipe, out = sys.argv[1:]
evaluate = stages.Training._evaluate


def stop(self, method):
    raise UserError("stopped")


def train(name, *overrides, stopped=False, resume=False):
    stages.Training._evaluate = stop if stopped else evaluate
    try:
        train_recipe(recipe, out=f"{out}/{name}", overrides=overrides, resume=resume)
    except UserError as e:
        if "stopped" not in str(e):
            raise


for name, overrides in {"two": [], "divided": ["train.shard=true"]}.items():
    train(name, *overrides)
    train(f"{name}-one", *overrides, stopped=True)
train("one-two", resume=True)
train("one-divided", "train.shard=true", resume=True)
train("divided-divided", "train.shard=true", stopped=True)
train("divided-divided", "train.shard=true", resume=True)
torch.distributed.destroy_process_group()
"""


def stopped(recipe, out):
    """Train in this process until the evaluation after step 2."""

    def stop(self, method):
        raise UserError("stopped")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("manyseg.runs.stages.Training._evaluate", stop)
        with pytest.raises(UserError, match="stopped"):
            train_recipe(recipe, out=out)


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """Runs by one process, by two, and by first one and then the other: `one`, `two`, `one-two`, `divided-one`, ..."""
    if not can_shard():
        pytest.skip("this release of torch divides no trunk")
    out = tmp_path_factory.mktemp("change")
    recipe = world.folder / "change.toml"
    recipe.write_text(RECIPE)
    for name in ("one-two", "one-divided"):
        stopped(recipe, out / name)
    with two_processes(SCRIPT, out, recipe, out) as two:
        train_recipe(recipe, out=out / "one")
        said, _ = two.communicate(timeout=600)
    assert two.returncode == 0, said
    train_recipe(recipe, out=out / "two-one", resume=True)
    train_recipe(recipe, out=out / "divided-one", overrides=["train.shard=false"], resume=True)
    return out


def losses(folder):
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def digest(folder, name="model"):
    tensors = checkpoint.read(folder / "checkpoint").tensors(name)
    return {k: (v.shape, hashlib.sha256(v.numpy().tobytes()).hexdigest()) for k, v in tensors.items()}


@pytest.mark.parametrize("name", ["two-one", "one-two", "divided", "one-divided", "divided-one", "divided-divided"])
def test_a_run_has_the_losses_and_weights_of_one_process(runs, name):
    """Sums are rounded otherwise, and AdamW makes such differences larger; other images differ by more than 1e-2."""
    assert losses(runs / name) == pytest.approx(losses(runs / "one"), rel=1e-3)
    for file in ("model", "average"):
        own, one = (checkpoint.read(runs / n / "checkpoint").tensors(file) for n in (name, "one"))
        assert own.keys() == one.keys()
        moved = sum((v.float() - one[k].float()).square().sum() for k, v in own.items())
        assert moved.sqrt() < 0.05


def test_a_divided_run_goes_on_exactly(runs):
    for file in ("model", "optimizer", "average"):
        assert digest(runs / "divided-divided", file) == digest(runs / "divided", file)
    assert (runs / "divided-divided" / "scores.json").read_text() == (runs / "divided" / "scores.json").read_text()


def test_a_divided_run_has_the_files_of_one_that_is_not(runs):
    for file in ("model", "optimizer", "average"):
        divided, whole = digest(runs / "divided", file), digest(runs / "two", file)
        assert {k: shape for k, (shape, _) in divided.items()} == {k: shape for k, (shape, _) in whole.items()}
    names = [sorted(p.name for p in (runs / n).iterdir()) for n in ("divided", "two")]
    assert names[0] == names[1]


def test_one_process_has_nobody_to_divide_with_and_says_so_in_one_line(world, tmp_path):
    recipe = world.folder / "alone.toml"
    recipe.write_text(RECIPE)
    message = "train.shard divides the trunk among processes, and there is one; start several"
    for check in (True, False):
        with pytest.raises(UserError, match=message) as error:
            train_recipe(recipe, out=tmp_path / "run", overrides=["train.shard=true"], dry_run=check)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "value"), [("precision", "fp16"), ("compile", True)])
def test_what_does_not_go_together_with_a_divided_trunk_is_refused(name, value):
    check_sharding(TrainOptions(steps=1, **{name: value}), 2)
    with pytest.raises(UserError, match=f"^train.shard and train.{name}.* do not go together"):
        check_sharding(TrainOptions(steps=1, shard=True, **{name: value}), 2)


def test_a_torch_that_divides_no_trunk_is_named(monkeypatch):
    monkeypatch.setattr("torch.distributed.fsdp.FSDPModule", object)
    with pytest.raises(UserError, match=r"^train\.shard needs torch 2.8 or newer, and this is .*; set it to false$"):
        check_sharding(TrainOptions(steps=1, shard=True), 2)
