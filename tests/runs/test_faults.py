"""What happens to a run when the machine, the disk or the numbers fail."""

import errno
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import tiny_fit, tiny_method, tiny_mixture

from manyseg import atomic
from manyseg.errors import UserError
from manyseg.training import checkpoint
from manyseg.training.metrics_log import MetricsLog

ROOT = Path(__file__).parents[2]
STEPS = {"steps": 8, "log_every": 1, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def mixture(world):
    return tiny_mixture(world, per_step=2)


def fit(mixture, folder, method=None, **options):
    return tiny_fit(mixture, folder, method, **(STEPS | options))


def losses(folder):
    found = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["losses"]) for line in found if "losses" in line]


@pytest.fixture(scope="module")
def whole(mixture, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    fit(mixture, folder)
    return folder


@pytest.fixture
def cut(mixture, tmp_path, monkeypatch):
    """A run that was stopped when it had taken 7 steps; its checkpoints are of 6 and 4."""
    write = checkpoint.write

    def stop(folder, files, state):
        if state["step"] == 8:
            raise KeyboardInterrupt
        write(folder, files, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(mixture, tmp_path / "cut")
    return tmp_path / "cut"


# Checkpoints.


def state(folder):
    return checkpoint.read(folder).state["n"]


def save(folder, n, size=4):
    checkpoint.write(folder, {"model": {"w": torch.full((size,), float(n))}}, {"n": n})


def test_a_checkpoint_holds_tensors_of_every_kind_to_the_last_bit(tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    tensors = {
        "nan": torch.tensor([math.nan, -0.0]), "int": torch.tensor(2**40), "bool": torch.tensor([True]), "one": shared,
        "half": torch.rand(3).bfloat16(), "transposed": shared.T, "tied": shared, "order": torch.rand(2, 3, 2, 2)
        .contiguous(memory_format=torch.channels_last), "none": torch.empty(0, 3),
    }  # fmt: skip
    checkpoint.write(tmp_path / "c", {"model": tensors}, {"best": -math.inf})
    found = checkpoint.read(tmp_path / "c")
    assert found.state == {"best": -math.inf}
    modes = {p.stat().st_mode for p in (tmp_path / "c").iterdir()}
    assert len(modes) == 1  # whoever may read one file may read all
    loaded = found.tensors("model")
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (value.dtype, value.shape), name
        both = [t.reshape(-1).view(torch.uint8) for t in (loaded[name], value)]
        assert torch.equal(*both), name


def test_the_previous_checkpoint_is_kept(tmp_path):
    for n in (1, 2, 3):
        save(tmp_path / "c", n)
    assert (state(tmp_path / "c"), state(tmp_path / "c.previous")) == (3, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "c.previous"]


def test_a_checkpoint_is_whole_wherever_writing_it_is_stopped(tmp_path, monkeypatch):
    """Stop after every call that touches the disk, and read what is there."""
    calls, stop_at = [], math.inf

    def counting(function):
        def call(*args, **kwargs):
            calls.append(1)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(checkpoint, "save_file", counting(checkpoint.save_file))
    monkeypatch.setattr(atomic.os, "fsync", counting(os.fsync))
    monkeypatch.setattr(atomic.os, "replace", counting(os.replace))
    monkeypatch.setattr(Path, "rename", counting(Path.rename))
    folder = tmp_path / "c"
    save(folder, 0)
    save(folder, 1)
    points = len(calls) // 2
    assert points >= 7
    for point in range(1, points + 2):
        calls.clear()
        stop_at = math.inf
        save(folder, 1)
        calls.clear()
        stop_at = point
        with pytest.raises(KeyboardInterrupt):
            save(folder, 2)
        stop_at = math.inf
        assert checkpoint.recover(folder) == ""
        assert state(folder) == (1 if point <= points else 2), point


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "state", "empty state"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_taken(tmp_path, damage):
    folder = tmp_path / "c"
    save(folder, 1)
    save(folder, 2)
    _damage(folder, damage)
    name = "state.json" if "state" in damage else "model.safetensors"
    with pytest.raises(UserError, match=rf"c/{name}: (damaged|missing)"):
        checkpoint.read(folder)
    assert name in checkpoint.recover(folder)
    assert state(folder) == 1
    assert checkpoint.recover(folder) == ""
    _damage(folder, damage)
    with pytest.raises(UserError, match=name):
        checkpoint.recover(folder)


def _damage(folder, damage):
    path = folder / "model.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "flip":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "remove":
        path.unlink()
    else:
        content = (folder / "state.json").read_text()
        (folder / "state.json").write_text(content[: len(content) // 2] if damage == "state" else "{}")


def test_a_run_with_a_truncated_checkpoint_goes_on_from_the_one_before(mixture, cut, whole, capsys):
    assert checkpoint.read(cut / "checkpoint").state["step"] == 6
    path = cut / "checkpoint" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    fit(mixture, cut)
    out = capsys.readouterr().out
    assert "optimizer.safetensors: damaged or cut off (1000 bytes" in out
    assert "going on from the checkpoint before it, after 4 steps" in out
    assert losses(cut) == losses(whole)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew_unasked(mixture, cut):
    for name in ("checkpoint", "checkpoint.previous"):
        (cut / name / "model.safetensors").write_bytes(b"")
    before = (cut / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"model.safetensors: damaged or cut off \(0 bytes"):
        fit(mixture, cut)
    assert (cut / "metrics.jsonl").read_bytes() == before


# Full disks.


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(mixture, whole, tmp_path, monkeypatch):
    save_file, calls = checkpoint.save_file, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 3:  # the model of the second checkpoint
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(
        UserError, match=r"No space left on device\); the earlier one in checkpoint/ is intact; make room"
    ):
        fit(mixture, tmp_path / "run")
    assert checkpoint.read(tmp_path / "run" / "checkpoint").state["step"] == 2
    assert not list((tmp_path / "run").glob("*.writing"))
    fit(mixture, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(whole)


def test_a_real_failure_of_writing_is_an_error_that_names_the_place(tmp_path):
    save(tmp_path / "c", 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"c: cannot write the checkpoint .*File too large"):
            save(tmp_path / "c", 2, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert state(tmp_path / "c") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; skips where mounting one is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip("mounting a small file system needs more privileges")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_small_file_system_fills_up_without_harm(small_disk):
    folder = small_disk / "c"
    save(folder, 1, size=100_000)  # 400 kB each: two fit
    save(folder, 2, size=100_000)
    with pytest.raises(UserError, match=r"c: cannot write the checkpoint .*No space left on device"):
        save(folder, 3, size=100_000)
    assert (state(folder), state(checkpoint.previous(folder))) == (2, 1)
    with (
        MetricsLog(small_disk, 1) as journal,
        pytest.raises(UserError, match=r"metrics.jsonl: cannot write .*No space"),
    ):
        journal.write({"step": 0, "eval": {}, "mean_miou": None, "note": "x" * 300_000})
    checkpoint.discard_previous(folder)
    save(folder, 3, size=100_000)
    assert state(folder) == 3


# Numbers that are not finite.


def planted(mixture, step, name):
    """A method whose loss on one dataset is NaN in one step."""
    method = tiny_method(mixture)
    loss, now = method.batch_loss, []
    method.on_step = now.append

    def batch_loss(features, batch):
        found = loss(features, batch)
        return {k: v * math.nan for k, v in found.items()} if now[-1] == step and batch.space.name == name else found

    method.batch_loss = batch_loss
    return method


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_loss_that_is_not_finite_stops_the_run_and_nothing_of_it_is_kept(mixture, whole, tmp_path, log_every):
    images = ", ".join(next(b.ids for b in mixture[4] if b.space.name == "coarse"))
    with pytest.raises(UserError, match=rf"step 4: loss 'coarse/pixel' is not finite \(nan; images: {images}\)"):
        fit(mixture, tmp_path / "run", planted(mixture, 4, "coarse"), log_every=log_every)
    assert checkpoint.read(tmp_path / "run" / "checkpoint").state["step"] == 4
    assert all(v.isfinite().all() for v in checkpoint.read(tmp_path / "run" / "checkpoint").tensors("model").values())
    assert max(step for step, _ in losses(tmp_path / "run")) == 3
    if log_every == 1:
        fit(mixture, tmp_path / "run")
        assert losses(tmp_path / "run") == losses(whole)


def test_weights_that_are_not_finite_are_not_saved(mixture, tmp_path):
    method = tiny_method(mixture)
    calls = []
    method.head.bias.register_hook(lambda g: calls.append(1) or (g * math.nan if len(calls) == 4 else g))
    with pytest.raises(
        UserError, match=r"after step 3 weights are not finite though the losses were; they were not saved"
    ):
        fit(mixture, tmp_path / "run", method, clip=0)
    assert checkpoint.read(tmp_path / "run" / "checkpoint").state["step"] == 2


# Kills.

KILLS = """
import os, random, signal, sys, time
import torch
from pathlib import Path
from manyseg.training import checkpoint
from manyseg.training import metrics_log as progress
from manyseg.runs.run import train_recipe

torch.set_num_threads(1)
recipe, out = sys.argv[1], Path(sys.argv[2])


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def child(folder, prepare):
    pid = os.fork()
    if pid:
        return pid
    prepare()
    train_recipe(recipe, out=folder, resume=(folder / "recipe.toml").exists())
    sys.stdout.flush()
    os._exit(0)


def wait(pid):
    return os.waitpid(pid, 0)[1]


def kill_in_write(number, how):
    # Die in the middle of the file, or of the renames, of a checkpoint.
    def prepare():
        original, count = checkpoint.save_file, [0]

        def half(tensors, path):
            original(tensors, path)
            count[0] += 1
            if count[0] == number:
                if how == "file":
                    os.truncate(path, os.path.getsize(path) // 2)
                    die()
                Path.rename, rename = lambda a, b: (rename(a, b), die()), Path.rename
        checkpoint.save_file = half
    return prepare


def kill_in_line():
    write = progress.json.dumps
    count = [0]

    def dumps(line, **options):
        count[0] += 1
        if count[0] == 5:
            with (out / "killed" / "metrics.jsonl").open("a") as file:
                file.write(write(line)[:20])
            die()
        return write(line, **options)
    progress.json = type("json", (), {"dumps": staticmethod(dumps), "loads": staticmethod(progress.json.loads)})


assert wait(child(out / "whole", lambda: None)) == 0
folder = out / "killed"
for prepare in (kill_in_write(2, "file"), kill_in_write(3, "file"), kill_in_write(2, "rename"), kill_in_line):
    assert wait(child(folder, prepare)) == signal.SIGKILL
    print("killed", flush=True)
log = folder / "metrics.jsonl"
for _ in range(3):
    start = time.time()
    pid = child(folder, lambda: None)
    # Wait for the child to be at work, then for a random moment.
    while time.time() - start < 20 and not (log.stat().st_mtime > start and random.random() < 0.02):
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    print("killed" if wait(pid) == signal.SIGKILL else "finished", flush=True)
assert wait(child(folder, lambda: None)) == 0
"""

RECIPE = """
[data]
crop = [32, 32]
workers = 0
sets = [ { card = "fine.toml", root = "fine", per_step = 1 }, { card = "coarse.toml", root = "coarse", per_step = 1 } ]
[model]
backbone = "tiny"
pretrained = false
channels = 8
[method]
name = "multihead"
[train]
steps = 24
log_every = 1
checkpoint_every = 3
eval_every = 12
ema = 0.9
"""


def test_a_run_that_is_killed_again_and_again_gives_the_losses_of_one_that_was_not(world, tmp_path):
    """SIGKILL a real process in the middle of a checkpoint's file, of its renames, of a log line, and at any moment."""
    (world.folder / "killed.toml").write_text(RECIPE)
    command = [sys.executable, "-c", KILLS, str(world.folder / "killed.toml"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed\n") >= 5
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert len(losses(whole)) == 24
    assert losses(killed) == losses(whole)
    for name in ("checkpoint/model", "checkpoint/optimizer", "checkpoint/average", "best/model"):
        assert (killed / f"{name}.safetensors").read_bytes() == (whole / f"{name}.safetensors").read_bytes(), name
    assert (killed / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    assert not list(killed.glob("*.writing"))
    assert not list(killed.glob("*.previous"))
