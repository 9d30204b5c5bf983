import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from rich.console import Console

import manyseg
from manyseg.data.mixture import Mixture
from manyseg.data.options import DataOptions
from manyseg.errors import Interrupted, UserError
from manyseg.methods import find_method
from manyseg.models import PixelEncoder
from manyseg.stop_signals import StopSignals
from manyseg.training import checkpoint
from manyseg.training import loop as train
from manyseg.training import metrics_log as progress
from manyseg.training.loss_accumulator import LossAccumulator
from manyseg.training.optimizer import (
    Average,
    build_optimizer,
    load_optimizer,
    optimizer_tensors,
    parameter_groups,
    rate,
    seed_everything,
)
from manyseg.training.options import TrainOptions

SETS = [{"card": f"{name}.toml", "root": name, "per_step": 2} for name in ("fine", "coarse")]


@pytest.fixture(scope="module")
def mixture(world):
    options = DataOptions(crop=(32, 32), workers=0, sets=SETS)
    return Mixture.open(options, world.folder, seed=0)


def build(mixture, name="multihead", seed=0):
    seed_everything(seed)
    pixels = PixelEncoder.build(backbone="tiny", pretrained=False, channels=8)
    return find_method(name)(pixels, [f.space for f in mixture.folders])


def scores(*values):
    """Return an evaluation that gives these mean IoUs one after the other, then the last one."""
    left = list(values)
    return lambda method: {"a": {"miou": left.pop(0) if len(left) > 1 else left[0], "pixel_accuracy": 0.5}}


def fit(mixture, folder, *, evaluate=None, method=None, signals=None, **options):
    method = method or build(mixture)
    folder.mkdir(exist_ok=True)
    train.train(method, mixture, TrainOptions(**options), folder, evaluate=evaluate or scores(0.5), signals=signals)
    return method, lines(folder)


def lines(folder):
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(found):
    return {line["step"]: line["losses"] for line in found if "loss" in line}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# What a step follows.


def test_the_rate_rises_linearly_then_falls_as_a_power():
    options = TrainOptions(steps=10, warmup=4, power=2)
    assert [rate(s, options) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate(4, options) == 1.0
    assert rate(7, options) == pytest.approx(0.25)  # half of the six steps after the warm-up
    assert rate(9, options) == pytest.approx((1 / 6) ** 2)
    assert rate(0, TrainOptions(steps=1)) == 1.0
    assert rate(1, TrainOptions(steps=4, warmup=50)) == 1.0  # at most half of the steps warm up
    assert {rate(s, TrainOptions(steps=5, warmup=0, power=0)) for s in range(5)} == {1.0}


def test_the_rate_falls_in_steps_where_asked_to():
    options = TrainOptions(steps=17, warmup=0, power=0, drops=(8 / 17, 15 / 17), drop_factor=0.5)
    assert [rate(s, options) for s in range(17)] == [1.0] * 8 + [0.5] * 7 + [0.25] * 2
    later = TrainOptions(steps=9, before=8, warmup=0, power=0, drops=(8 / 17, 15 / 17), drop_factor=0.5)
    assert [rate(s, later) for s in range(9)] == [0.5] * 7 + [0.25] * 2


@pytest.mark.parametrize(("nesterov", "moved"), [(True, 1.9 + 2.71), (False, 1.0 + 1.9)])
def test_sgd_is_with_nesterovs_momentum_or_plain(nesterov, moved):
    """Two steps of gradient 1 with momentum 0.9: the buffer is 1, then 1.9."""
    p = torch.nn.Parameter(torch.zeros(1))
    options = TrainOptions(optimizer="sgd", nesterov=nesterov)
    optimizer = build_optimizer([{"params": [p], "lr": 1.0, "weight_decay": 0.0}], options)
    for _ in range(2):
        p.grad = torch.ones(1)
        optimizer.step()
    assert -p.item() == pytest.approx(moved)


def test_the_backbone_learns_slower_and_vectors_do_not_decay(mixture):
    method = build(mixture)
    groups = parameter_groups(method, TrainOptions(steps=1, lr=0.1, backbone_lr_factor=0.5, weight_decay=0.2))
    found = {name: (g["peak"], g["weight_decay"]) for g in groups for name in g["names"]}
    assert found.keys() == {name for name, _ in method.named_parameters()}
    assert found["pixel_encoder.backbone.net.first.0.weight"] == (0.05, 0.2)
    assert found["pixel_encoder.backbone.net.first.0.bias"] == (0.05, 0.0)
    assert found["head.weight"] == (0.1, 0.2)
    assert found["head.bias"] == (0.1, 0.0)


def test_earlier_layers_of_the_trunk_learn_slower_by_layer_decay(mixture):
    options = TrainOptions(steps=1, lr=1.0, backbone_lr_factor=0.5, layer_decay=0.5)
    peaks = {n: g["peak"] for g in parameter_groups(build(mixture), options) for n in g["names"]}
    # Four layers: the last has 0.5 of the trunk's rate, the first 0.5 ** 4.
    assert peaks["pixel_encoder.backbone.net.stages.2.0.weight"] == 0.25
    assert peaks["pixel_encoder.backbone.net.stages.0.0.weight"] == 0.0625
    assert peaks["pixel_encoder.backbone.net.first.0.bias"] == 0.03125
    assert peaks["head.weight"] == 1.0


def test_low_rank_additions_learn_as_new_layers_do(mixture, small):
    pixels = PixelEncoder.build(backbone="vit_tiny_patch16_224", pretrained=False, trainable="lora", channels=8)
    method = find_method("multihead")(pixels, [f.space for f in mixture.folders])
    options = TrainOptions(steps=1, lr=1.0, backbone_lr_factor=0.5, layer_decay=0.5)
    peaks = {n: g["peak"] for g in parameter_groups(method, options) for n in g["names"]}
    assert any(".down" in n for n in peaks)
    assert set(peaks.values()) == {1.0}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_optimizer_is_the_same_after_saving_and_loading(mixture, optimizer):
    options = TrainOptions(steps=9, optimizer=optimizer)
    methods = [build(mixture).to(memory_format=torch.channels_last) for _ in range(2)]
    names = [n for g in parameter_groups(methods[0], options) for n in g["names"]]
    optimizers = [build_optimizer(parameter_groups(m, options), options) for m in methods]

    def step(i):
        torch.manual_seed(7)
        for p in (p for g in optimizers[i].param_groups for p in g["params"]):
            p.grad = torch.randn_like(p)
        optimizers[i].step()

    step(0)
    methods[1].load_state_dict(methods[0].state_dict())
    load_optimizer(optimizers[1], names, {k: v.clone() for k, v in optimizer_tensors(optimizers[0], names).items()})
    step(0)
    step(1)
    assert equal(methods[0].state_dict(), methods[1].state_dict())
    step(0)
    assert not equal(methods[0].state_dict(), methods[1].state_dict())


def test_seeds_of_equal_keys_are_equal_in_all_generators():
    def draw(*key):
        import random

        seed_everything(*key)
        return torch.rand(1).item(), np.random.rand(), random.random()

    assert draw(3, 5) == draw(3, 5)
    assert all(a != b for a, b in zip(draw(3, 5), draw(3, 6), strict=True))
    assert all(a != b for a, b in zip(draw(3, 5), draw(5, 3), strict=True))


def test_an_average_follows_the_weights_and_gives_them_back():
    module = torch.nn.BatchNorm1d(1)
    average = Average(module, decay=0.9)
    module.weight.data.fill_(2.0)
    module.num_batches_tracked += 3
    average.update(0)  # decay 1 / 10
    assert average.tensors["weight"].item() == pytest.approx(0.1 * 1 + 0.9 * 2)
    module.weight.data.fill_(4.0)
    average.update(10**6)  # decay 0.9
    expected = 0.9 * 1.9 + 0.1 * 4
    with average.swapped():
        assert module.weight.item() == pytest.approx(expected)
        assert module.num_batches_tracked.item() == 3
    assert module.weight.item() == 4.0


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"lr": 0.0}, {"precision": "fp8"}, {"ema": 1.0}, {"track": ["pen"]}, {"stepz": 3}]
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        TrainOptions(**{"steps": 1, **wrong})


def test_every_option_is_described_and_read_by_code():
    package = Path(manyseg.__file__).parent
    files = ("training/loop.py", "training/optimizer.py", "training/state.py", "runs/stages.py")
    code = "".join((package / name).read_text() for name in files)
    for name, field in TrainOptions.model_fields.items():
        assert field.description, name
        assert f"options.{name}" in code or f"o.{name}" in code, name


# Losses of a line of the log.


def batch(name, *ids):
    from manyseg.data.annotation import Dense
    from manyseg.data.batch import Batch
    from manyseg.labels import LabelSpace

    return Batch(LabelSpace.of(name, ["x"]), ids, torch.zeros(len(ids), 3, 1, 1), Dense(torch.zeros(len(ids), 1, 1)))


def test_a_line_means_the_losses_of_the_draws_that_had_them():
    losses = LossAccumulator()
    total = losses.add(0, {"a/x": torch.tensor(1.0), "b/x": torch.tensor(2.0)}, [batch("a", "i"), batch("b", "j")])
    assert total.item() == 3.0
    losses.add(1, {"a/x": torch.tensor(3.0)}, [batch("a", "k")])
    assert losses.images == 3
    assert losses.close(lambda t: t, 0) == (3.0, {"a/x": 2.0, "b/x": 2.0})
    losses.add(2, {"a/x": torch.tensor(5.0)}, [batch("a", "k")])
    assert losses.close(lambda t: torch.cat([t, t + 2]), 0) == (6.0, {"a/x": 6.0})


def test_a_loss_that_is_not_finite_is_named_with_its_step_and_images():
    losses = LossAccumulator()
    losses.add(7, {"a/x": torch.tensor(1.0), "b/x": torch.tensor(2.0)}, [batch("a", "i"), batch("b", "j")])
    losses.add(8, {"a/x": torch.tensor(1.0), "b/x": torch.tensor(math.nan)}, [batch("a", "k"), batch("b", "l", "m")])
    with pytest.raises(UserError, match=r"step 8: loss 'b/x' is not finite \(nan; images: l, m\)"):
        losses.close(lambda t: t, 0)
    with pytest.raises(UserError, match="images: those of process 1"):
        losses.close(lambda t: torch.cat([torch.ones_like(t), t]), 0)


def test_a_shared_loss_that_is_not_finite_names_all_images():
    losses = LossAccumulator()
    losses.add(0, {"penalty": torch.tensor(math.inf)}, [batch("a", "i"), batch("b", "j")])
    with pytest.raises(UserError, match=r"'penalty' is not finite \(inf; images: i, j"):
        losses.close(lambda t: t, 0)


# The loop.


def test_training_lowers_the_loss_and_logs_what_it_says(mixture, tmp_path):
    _, found = fit(mixture, tmp_path, steps=30, lr=0.01, warmup=0, log_every=10, eval_every=20)
    steps = [line for line in found if "loss" in line]
    assert [line["step"] for line in steps] == [9, 19, 29]
    assert steps[-1]["loss"] < 0.9 * steps[0]["loss"]
    for line in steps:
        assert line.keys() == {
            "step", "stage", "loss", "losses", "lr", "images_per_s", "data_wait", "seconds",
        }  # fmt: skip
        assert line["losses"].keys() == {"fine/pixel", "coarse/pixel"}
        assert line["loss"] == pytest.approx(sum(line["losses"].values()))
        assert 0 <= line["data_wait"] <= 1
        assert line["images_per_s"] > 0
    evals = [line for line in found if "eval" in line]
    assert [(line["step"], line["mean_miou"]) for line in evals] == [(20, 0.5), (30, 0.5)]


def test_equal_seeds_give_equal_runs_to_the_last_bit(mixture, tmp_path):
    first, a = fit(mixture, tmp_path / "a", steps=4, log_every=1)
    second, b = fit(mixture, tmp_path / "b", steps=4, log_every=1)
    assert losses(a) == losses(b)
    assert equal(first.state_dict(), second.state_dict())


def noisy(mixture, seed=0):
    """Build a method whose training draws random numbers, as dropout does."""
    method = build(mixture, seed=seed)
    method.pixel_encoder.register_forward_hook(
        lambda module, args, out: out._replace(
            embedding=out.embedding + torch.randn_like(out.embedding) * module.training
        )
    )
    return method


@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd", "lr": 0.05}, {"ema": 0.9, "precision": "bf16"}])
def test_a_run_cut_short_goes_on_as_if_it_had_not_been(mixture, tmp_path, options):
    options = {"steps": 8, "log_every": 3, "checkpoint_every": 5, "eval_every": 4, **options}
    whole, expected = fit(mixture, tmp_path / "a", method=noisy(mixture), **options)

    def stop(step):
        if step == 7:
            raise KeyboardInterrupt

    stopped = noisy(mixture)
    stopped.on_step = stop
    with pytest.raises(KeyboardInterrupt):
        fit(mixture, tmp_path / "b", method=stopped, **options)
    assert checkpoint.read(tmp_path / "b" / "checkpoint").state["step"] == 5
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "torn')
    torch.rand(3)  # generators are elsewhere by now
    resumed, found = fit(mixture, tmp_path / "b", method=noisy(mixture, seed=9), **options)
    keys = ("step", "loss", "losses", "lr", "eval")
    assert [[line.get(k) for k in keys] for line in found] == [[line.get(k) for k in keys] for line in expected]
    assert equal(whole.state_dict(), resumed.state_dict())
    for name in ("model", "optimizer", "average")[: 3 if "ema" in options else 2]:
        both = [checkpoint.read(tmp_path / x / "checkpoint").tensors(name) for x in "ab"]
        assert equal(*both), name


@pytest.mark.parametrize("eval_every", [0, 2])
def test_a_run_that_ends_in_an_evaluation_goes_on_with_it(mixture, tmp_path, eval_every):
    """Whatever evaluation raises, and however often, no step is lost or taken again."""
    options = {"steps": 4, "log_every": 1, "eval_every": eval_every}
    whole, expected = fit(mixture, tmp_path / "a", **options)
    outcomes, steps, saved = [False, False, True] * (2 if eval_every else 1), [], []

    def evaluate(method):
        if not outcomes.pop(0):
            raise UserError("val/3.png: truncated")
        return scores(0.5)(method)

    while outcomes:
        method = build(mixture)
        method.on_step = steps.append
        try:
            resumed, found = fit(mixture, tmp_path / "b", method=method, evaluate=evaluate, **options)
        except UserError:
            saved.append(checkpoint.read(tmp_path / "b/checkpoint").state["step"])
    assert saved == ([2, 2, 4, 4] if eval_every else [4, 4])
    assert steps == [0, 1, 2, 3]
    assert equal(whole.state_dict(), resumed.state_dict())
    keys = ("step", "losses", "eval")
    assert [[line.get(k) for k in keys] for line in found] == [[line.get(k) for k in keys] for line in expected]


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_signal_in_a_step_is_answered_when_the_step_is_saved(mixture, tmp_path, log_every):
    options = {"steps": 4, "log_every": log_every}
    whole, expected = fit(mixture, tmp_path / "a", **options)
    method = build(mixture)
    method.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 1 else None
    with StopSignals() as signals, pytest.raises(Interrupted) as e:
        fit(mixture, tmp_path / "b", method=method, signals=signals, **options)
    assert e.value.status == 143
    assert checkpoint.read(tmp_path / "b/checkpoint").state["step"] == 2
    resumed, found = fit(mixture, tmp_path / "b", **options)
    assert equal(whole.state_dict(), resumed.state_dict())
    if log_every == 1:
        assert losses(found) == losses(expected)


def test_a_signal_in_an_evaluation_ends_it_at_once_as_the_steps_are_saved(mixture, tmp_path):
    def evaluate(method):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    with StopSignals() as signals, pytest.raises(Interrupted):
        fit(mixture, tmp_path, evaluate=evaluate, signals=signals, steps=2)
    assert checkpoint.read(tmp_path / "checkpoint").state["step"] == 2
    assert not (tmp_path / "best").exists()


def test_an_evaluation_is_not_made_again_unless_its_best_weights_are_damaged(mixture, tmp_path, capsys):
    fit(mixture, tmp_path, steps=2)
    calls = []

    def count(method):
        calls.append(1)
        return scores(0.7)(method)

    fit(mixture, tmp_path, steps=2, evaluate=count)
    assert not calls
    (tmp_path / "best/model.safetensors").write_bytes(b"")
    fit(mixture, tmp_path, steps=2, evaluate=count)
    assert len(calls) == 1
    assert "best/model.safetensors: damaged" in capsys.readouterr().out
    assert checkpoint.read(tmp_path / "best").state["mean_miou"] == 0.7


def test_checkpoints_come_by_time_too(mixture, tmp_path, monkeypatch):
    written, write = [], checkpoint.write

    def note(folder, files, state):
        written.append(state["step"])
        write(folder, files, state)

    monkeypatch.setattr(checkpoint, "write", note)
    common = {"steps": 3, "checkpoint_every": 100, "evaluate": lambda method: {}}
    for minutes, expected in [(1e-9, [1, 2, 3]), (0, [3]), (60, [3])]:
        written.clear()
        fit(mixture, tmp_path / str(minutes), checkpoint_minutes=minutes, **common)
        assert written[:-1] == expected  # the last one is the best weights


def tied(mixture, seed=0):
    """Build a method of which two layers share one weight."""
    method = build(mixture, seed=seed)
    method.twin = torch.nn.Conv2d(*method.head.weight.shape[1::-1], 1)
    method.twin.weight = method.head.weight
    return method


def test_weights_that_layers_share_are_saved_averaged_and_shared_again(mixture, tmp_path):
    options = {"lr": 0.05, "ema": 0.5, "checkpoint_every": 2}
    whole, _ = fit(mixture, tmp_path / "a", method=tied(mixture), steps=4, **options)
    fit(mixture, tmp_path / "b", method=tied(mixture), steps=2, after=2, **options)
    resumed, _ = fit(mixture, tmp_path / "b", method=tied(mixture, seed=9), steps=4, **options)
    assert resumed.twin.weight is resumed.head.weight
    assert equal(whole.state_dict(), resumed.state_dict())
    assert not equal(whole.state_dict(), tied(mixture).state_dict())
    for name in ("model", "average"):
        for found in (checkpoint.read(tmp_path / x / "checkpoint").tensors(name) for x in "ab"):
            assert torch.equal(found["twin.weight"], found["head.weight"])


def test_two_draws_accumulated_are_one_step_on_their_mean(mixture, tmp_path):
    # A norm of groups sees images apart, so draws 2k and 2k + 1 of two images are one of four but for rounding.
    four = DataOptions(crop=(32, 32), workers=0, sets=[{**s, "per_step": 4} for s in SETS])
    big = Mixture(mixture.folders, four, seed=0)
    common = {"steps": 3, "log_every": 1, "optimizer": "sgd", "clip": 0, "lr": 0.01}
    _, a = fit(big, tmp_path / "a", **common)
    _, b = fit(mixture, tmp_path / "b", accumulate=2, **common)
    assert [line["step"] for line in a] == [line["step"] for line in b]
    for x, y in zip(a[:-1], b[:-1], strict=True):
        # Labelled pixels are not spread evenly over the draws: the mean of two means is near, not equal.
        assert x["loss"] == pytest.approx(y["loss"], rel=0.03)


def test_clipping_bounds_the_step(mixture, tmp_path):
    before = {k: v.detach().clone() for k, v in build(mixture).named_parameters()}
    common = {"steps": 1, "optimizer": "sgd", "momentum": 0, "weight_decay": 0, "lr": 1.0, "backbone_lr_factor": 1.0}
    method, _ = fit(mixture, tmp_path, clip=1e-3, **common)
    moved = math.sqrt(sum(float((v.detach() - before[k]).square().sum()) for k, v in method.named_parameters()))
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_a_backbone_of_factor_zero_stays_as_it_is(mixture, tmp_path):
    before = {k: v.clone() for k, v in build(mixture).state_dict().items()}
    method, _ = fit(mixture, tmp_path, steps=2, backbone_lr_factor=0)
    same = {k for k, v in method.state_dict().items() if torch.equal(v, before[k])}
    assert same == {k for k, _ in method.named_parameters() if k.startswith("pixel_encoder.backbone.")}


def test_batch_norms_of_a_backbone_of_factor_zero_stay_as_they_are(mixture, tmp_path):
    seed_everything(0)
    pixels = PixelEncoder.build(backbone="resnet10t", pretrained=False, channels=8)
    method = find_method("multihead")(pixels, [f.space for f in mixture.folders])
    before = {k: v.clone() for k, v in pixels.backbone.state_dict().items()}
    fit(mixture, tmp_path, method=method, steps=2, backbone_lr_factor=0, eval_every=1)
    assert equal(before, pixels.backbone.state_dict())


def test_the_best_weights_are_kept_by_mean_miou(mixture, tmp_path):
    fit(mixture, tmp_path, steps=6, eval_every=2, evaluate=scores(0.2, 0.6, 0.4))
    best = checkpoint.read(tmp_path / "best")
    assert best.state == {"stage": "train", "step": 4, "mean_miou": 0.6}
    assert not checkpoint.previous(tmp_path / "best").exists()


def test_datasets_that_could_not_be_measured_are_left_out_of_the_mean(mixture, tmp_path):
    def evaluate(method):
        return {"a": {"miou": 0.2, "pixel_accuracy": None}, "b": {"miou": None, "pixel_accuracy": None}}

    _, found = fit(mixture, tmp_path, steps=1, evaluate=evaluate)
    assert found[-1]["mean_miou"] == 0.2


def test_weights_are_kept_even_if_nothing_can_be_measured(mixture, tmp_path):
    method, found = fit(mixture, tmp_path, steps=2, eval_every=1, evaluate=lambda m: {})
    assert found[-1]["mean_miou"] is None
    assert checkpoint.read(tmp_path / "best").state["step"] == 2
    assert equal(checkpoint.read(tmp_path / "best").tensors("model"), method.state_dict())


def test_averaged_weights_are_evaluated_and_kept_as_best(mixture, tmp_path):
    seen = {}

    def evaluate(method):
        assert not method.training
        seen.update({k: v.clone() for k, v in method.state_dict().items()})
        return {"a": {"miou": 0.5, "pixel_accuracy": 0.5}}

    method, _ = fit(mixture, tmp_path, steps=3, ema=0.999, evaluate=evaluate)
    saved = checkpoint.read(tmp_path / "checkpoint")
    assert equal(seen, saved.tensors("average"))
    assert equal(seen, checkpoint.read(tmp_path / "best").tensors("model"))
    assert equal(method.state_dict(), saved.tensors("model"))
    assert not equal(seen, method.state_dict())


def test_a_later_stage_counts_on_and_starts_its_schedule_anew(mixture, tmp_path):
    heard = []
    method = build(mixture)
    method.on_step = heard.append
    fit(mixture, tmp_path, steps=3, log_every=1)
    train.train(
        method,
        mixture,
        TrainOptions(steps=2, warmup=1, log_every=1),
        tmp_path,
        evaluate=scores(0.1),
        stage="second",
        first=3,
    )
    found = [line for line in lines(tmp_path) if "loss" in line]
    assert [(line["step"], line["stage"]) for line in found] == [
        (0, "train"), (1, "train"), (2, "train"), (3, "second"), (4, "second"),
    ]  # fmt: skip
    assert found[3]["lr"] == 1e-3
    assert heard == [0, 1]
    assert checkpoint.read(tmp_path / "best").state == {"stage": "second", "step": 5, "mean_miou": 0.1}


def test_half_precision_on_a_cpu_is_refused(mixture, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="fp16, which needs a GPU"):
        fit(mixture, tmp_path, steps=1, precision="fp16")


def test_images_lie_in_the_memory_order_that_was_asked_for(mixture, tmp_path):
    orders = []
    for channels_last in (True, False):
        method = build(mixture)
        method.pixel_encoder.register_forward_pre_hook(
            lambda module, args: orders.append(args[0].is_contiguous(memory_format=torch.channels_last))
        )
        fit(mixture, tmp_path / str(channels_last), steps=1, method=method, channels_last=channels_last)
    assert orders == [True, False]


def test_compiling_compiles_the_network_alone(mixture, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    method, _ = fit(mixture, tmp_path, steps=1, compile=True)
    assert compiled == [method.pixel_encoder]


def test_deterministic_kernels_are_asked_for_during_training_only(mixture, tmp_path):
    seen = []

    def evaluate(method):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return scores(0.5)(method)

    fit(mixture, tmp_path, steps=1, deterministic=True, evaluate=evaluate)
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()


# What is shown.


def test_cutting_the_log_drops_what_a_resumed_run_repeats(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 0, "loss": 1}, {"step": 1, "loss": 1}, {"step": 2, "eval": {}}, {"step": 2, "loss": 1}]
    path.write_text("".join(json.dumps(r) + "\n" for r in [*rows, {"step": 3, "eval": {}}]) + '{"st')
    progress.cut(path, 2)
    assert [json.loads(text) for text in path.read_text().splitlines()] == rows[:3]
    progress.cut(tmp_path / "none.jsonl", 2)


def test_a_terminal_shows_bar_losses_and_scores(tmp_path, monkeypatch):
    console = Console(force_terminal=True, width=200, record=True, file=(tmp_path / "out").open("w"))
    monkeypatch.setattr(progress, "WorkConsole", lambda: console)
    with progress.MetricsLog(tmp_path, 10) as log:
        line = {"stage": "train", "loss": 3.25, "losses": {"a/pixel": 3.25}, "images_per_s": 12.5, "data_wait": 0.25}
        log.write({"step": 1, **line, "seconds": 2.0})
        log.write(
            {"step": 2, "stage": "train", "eval": {"a": {"miou": 0.125, "pixel_accuracy": None}}, "mean_miou": 0.125}
        )
        log.write({"step": 5, **line, "seconds": 6.0})
    text = console.export_text()
    for part in ("6/10", "a/pixel", "3.2500", "12.5 images/s", "25% waiting", "0:00:04 left", "0.1250"):
        assert part in text, part
    console.file.close()


def test_a_pipe_gets_plain_lines(mixture, tmp_path, capsys):
    fit(mixture, tmp_path, steps=2, log_every=1)
    first, _, last = capsys.readouterr().out.splitlines()
    assert first.startswith("train 1/2  loss ")
    assert "fine/pixel" in first
    assert last == "after 2 steps  mIoU a 0.5000  mean 0.5000"


def test_the_first_steps_say_how_long_a_step_takes_and_what_its_activations_need(mixture, tmp_path, capsys):
    fit(mixture, tmp_path, steps=6, log_every=2)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("a step takes ")]
    assert len(said) == 1
    # Four images of 3 x 32 x 32 numbers are the least that is kept.
    assert 0.04 < float(said[0].split("activations ")[1].split(" MiB")[0]) < 100


FULL = [torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory"), MemoryError()]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_memory_that_runs_out_says_what_to_lower(mixture, tmp_path, monkeypatch, error):
    method = build(mixture)

    def fails(*args):
        raise error

    monkeypatch.setattr(method.pixel_encoder, "forward", fails)
    with pytest.raises(UserError, match=r"step 0: memory ran out .* 2 of 'fine' \(32x32\), .*lower per_step"):
        fit(mixture, tmp_path, method=method, steps=1)


def test_another_fault_in_a_step_stays_what_it_is(mixture, tmp_path, monkeypatch):
    method = build(mixture)

    def fails(*args):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(method.pixel_encoder, "forward", fails)
    with pytest.raises(RuntimeError, match="shapes differ"):
        fit(mixture, tmp_path, method=method, steps=1)


def test_a_tracker_that_is_not_installed_is_named_before_training(mixture, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wandb is not installed; pip install .manyseg\[track\]"):
        fit(mixture, tmp_path, steps=1, track=["wandb"])
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_tensorboard_gets_the_numbers(mixture, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit(mixture, tmp_path, steps=2, log_every=1, track=["tensorboard"])
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "losses/fine/pixel", "eval/a/miou", "mean_miou"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("loss")] == [0, 1]
