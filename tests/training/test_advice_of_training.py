"""What messages of a training that fails advise works: it goes on, or another option is taken."""

import errno
import json
import math

import pytest
import torch
from advice import follow
from tiny_training import tiny_fit, tiny_method, tiny_mixture

from manyseg.training import checkpoint
from manyseg.training.first_steps import memory_named
from manyseg.training.metrics_log import check_trackers
from manyseg.training.options import TrainOptions
from manyseg.training.sharding import check_sharding


@pytest.fixture(scope="module")
def mixture(world):
    return tiny_mixture(world, per_step=1)


def fit(mixture, folder, method=None, **options):
    """Train three steps; return at which one the checkpoint is."""
    tiny_fit(mixture, folder, method, **{"steps": 3, "log_every": 1, "checkpoint_every": 1, **options})
    return checkpoint.read(folder / "checkpoint").state["step"]


@pytest.mark.parametrize(
    ("wrong", "said", "right"),
    [
        ({"precision": "fp16"}, "use bf16 or fp32", {"precision": "bf16"}),
        ({"shard": True}, "or set train.shard = false", {"shard": False}),
    ],
)
def test_options_are_changed_as_advised(mixture, tmp_path, wrong, said, right):
    follow(lambda: fit(mixture, tmp_path / "a", **wrong), said, lambda: fit(mixture, tmp_path / "b", **right))


@pytest.mark.parametrize(
    ("wrong", "processes", "said", "right"),
    [
        ({"shard": True}, 1, "start several .torchrun --nproc-per-node N", ({"shard": True}, 2)),
        ({"shard": True, "precision": "fp16"}, 2, 'use "bf16"', ({"shard": True, "precision": "bf16"}, 2)),
        ({"shard": True, "compile": True}, 2, "set one of them to false", ({"shard": True, "compile": False}, 2)),
        ({"shard": True, "compile": True}, 2, "set one of them to false", ({"shard": False, "compile": True}, 2)),
    ],
)
def test_a_trunk_is_divided_as_advised(wrong, processes, said, right, monkeypatch):
    monkeypatch.setattr("manyseg.training.sharding.can_shard", lambda: True)
    check = lambda options, count: check_sharding(TrainOptions(steps=1, **options), count)  # noqa: E731
    follow(lambda: check(wrong, processes), said, lambda: check(*right))


def test_a_trunk_is_left_whole_where_torch_is_old_as_advised(monkeypatch):
    monkeypatch.setattr("manyseg.training.sharding.can_shard", lambda: False)
    check = lambda shard: check_sharding(TrainOptions(steps=1, shard=shard), 2)  # noqa: E731
    follow(lambda: check(True), "train.shard needs torch 2.8 or newer, .*; set it to false", lambda: check(False))


def test_a_tracker_is_installed_or_removed_as_advised(monkeypatch):
    monkeypatch.setattr("manyseg.training.metrics_log.find_spec", lambda name: None)
    said = r'wandb is not installed; pip install "manyseg\[track\]" or remove it'
    follow(lambda: check_trackers(["wandb"]), said, lambda: check_trackers([]))
    monkeypatch.setattr("manyseg.training.metrics_log.find_spec", lambda name: name)
    check_trackers(["wandb"])


def test_what_needs_less_memory_is_advised(mixture):
    def step(enough):
        with memory_named(3, mixture[0]):
            if not enough:
                raise torch.OutOfMemoryError

    said = "step 3: memory ran out with these images in this process: 1 of 'fine' .32x32., 1 of 'coarse' .32x32.; lower"
    follow(lambda: step(False), said, lambda: step(True))


def planted(mixture):
    """A method whose loss is NaN from the second step on."""
    method, now = tiny_method(mixture), []
    loss = method.batch_loss
    method.on_step = now.append
    method.batch_loss = lambda features, batch: {
        k: v * math.nan if now[-1] >= 1 else v for k, v in loss(features, batch).items()
    }
    return method


def test_a_run_whose_labels_were_corrected_goes_on_as_advised(mixture, tmp_path):
    run = tmp_path / "run"
    said = "step 1: loss 'fine/pixel' is not finite .*; correct their labels and go on with --resume"
    assert follow(lambda: fit(mixture, run, planted(mixture)), said, lambda: fit(mixture, run)) == 3


def test_weights_that_are_not_finite_are_learned_in_another_run_as_advised(mixture, tmp_path):
    method, calls = tiny_method(mixture), []
    method.head.bias.register_hook(lambda g: calls.append(1) or (g * math.nan if len(calls) == 2 else g))
    follow(
        lambda: fit(mixture, tmp_path / "run", method, clip=0),
        "they were not saved; lower train.lr or set train.clip, in another --out",
        lambda: fit(mixture, tmp_path / "other", clip=1.0),
    )


@pytest.mark.parametrize("place", ["checkpoint", "metrics.jsonl"])
def test_a_run_goes_on_when_there_is_room_again_as_advised(mixture, tmp_path, monkeypatch, place):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        if place == "checkpoint":
            patch.setattr(checkpoint, "save_file", full)
        else:
            patch.setattr("manyseg.training.metrics_log.json.dumps", full)
        follow(
            lambda: fit(mixture, run),
            f"{place}: cannot write .*No space left on device.*; make room on the disk, then go on with --resume",
            lambda: [patch.undo(), fit(mixture, run)],
        )


def save(folder, tensors):
    checkpoint.write(folder, {"model": tensors}, {"n": 1})


def test_a_checkpoint_is_trained_again_as_advised(tmp_path):
    net, folder = torch.nn.Linear(2, 2), tmp_path / "c"
    good = net.state_dict()

    def use():
        checkpoint.read(folder).load_into(net)

    def trained():
        save(folder, good)
        use()

    def damage(name, content=None):
        def change():
            save(folder, good)
            (folder / name).unlink() if content is None else (folder / name).write_bytes(content)

        return change

    def no_tensors():
        save(folder, good)
        (folder / "model.safetensors").write_bytes(b"")
        record = {"sha256": {"model.safetensors": checkpoint._sum(folder / "model.safetensors")}, "state": {}}
        record |= {"own_sha256": checkpoint._own_sum(record)}
        (folder / "state.json").write_text(json.dumps(record))

    for wrong, said in (
        (lambda: None, "there is no checkpoint .no state.json.; train the run, or go on with it by --resume"),
        (damage("state.json", b"{"), "state.json: damaged .*; train the run again"),
        (damage("model.safetensors"), "missing; the checkpoint is not whole, train the run again"),
        (damage("model.safetensors", b"x"), "damaged or cut off .*; train the run again"),
        (no_tensors, "not a file of tensors .*; train the run again"),
        (
            lambda: save(folder, {k: v * math.nan for k, v in good.items()}),
            "weights are not finite.*; train the run again, with a lower train.lr or with train.clip",
        ),
        (lambda: save(folder, {"x": torch.ones(1)}), "restore the recipe, or train the run again"),
    ):
        wrong()
        follow(use, said, trained)
