"""A signal to a real process, or to several: what is trained is saved, and the command that is named goes on."""

import json
import os
import shlex
import signal
import socket
import sys
import time
import traceback
import warnings

import pytest
from accelerate.state import AcceleratorState
from tiny import tiny_recipe

from manyseg import cli
from manyseg.errors import UserError
from manyseg.runs import stages
from manyseg.runs.run import Run, train_recipe
from manyseg.training import loop


@pytest.fixture(scope="module")
def recipe(world):
    def write(workers=0):
        path = world.folder / f"interrupted{workers}.toml"
        sets = {"per_step": 2, "unseen": ["unseen"], "workers": workers}
        path.write_text(tiny_recipe("fine", "coarse", **sets, steps=8, log_every=1))
        return path

    return write


def start(words, out, slow_from=99, **environment):
    """Run the command line in a process and group of its own; steps from `slow_from` on take a second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ.update(environment)
        AcceleratorState._reset_state(True)
        update = loop._Stage._update

        def slow(self, draws):
            if self.step >= slow_from:
                time.sleep(1)
            if os.environ.get("FAILS") and self.step == 2:
                raise UserError("step 2: planted")
            update(self, draws)

        loop._Stage._update = slow
        sys.argv = ["manyseg", *map(str, words)]
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        status = 0
        try:
            cli.main()
        except SystemExit as e:
            status = e.code or 0
        os._exit(status)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(99)


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def lines(folder):
    path = folder / "metrics.jsonl"
    return [json.loads(t) for t in path.read_text().splitlines()] if path.exists() else []


def results(folder):
    steps = [(line["step"], line["losses"]) for line in lines(folder) if "losses" in line]
    return steps, (folder / "scores.json").read_bytes(), (folder / "best/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """A run that nothing stopped."""
    return train_recipe(recipe(), out=tmp_path_factory.mktemp("whole") / "run", overrides=["train.lr=0.002"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_is_answered_by_a_saved_step_and_the_command_to_go_on(recipe, tmp_path, whole, number):
    """The readers of images are in the group too."""
    path, run = recipe(workers=2), tmp_path / "run"
    pid = start(["train", path, "--out", run, "--set", "train.lr=0.002"], tmp_path / "out", slow_from=2)
    until(lambda: len(lines(run)) >= 2)
    os.killpg(pid, number)
    assert wait(pid) == 128 + number
    text = (tmp_path / "out").read_text()
    told = text.splitlines()[-1]
    saved = json.loads((run / "checkpoint/state.json").read_text())["state"]["step"]
    assert told.startswith(f"stopped by {number.name}: step {saved} of 8 is saved; to go on: manyseg train ")
    assert "Traceback" not in text
    assert not os.path.exists(f"/proc/{pid}")
    command = shlex.split(told.partition("to go on: ")[2])[1:]
    assert wait(start(command, tmp_path / "out")) == 0
    assert f"going on after step {saved} of 8" in (tmp_path / "out").read_text()
    assert results(run) == results(whole)


def test_a_run_that_was_ended_before_its_first_step_does_not_block_its_folder(recipe, tmp_path, monkeypatch, capsys):
    path, run = recipe(), tmp_path / "run"

    def stop(self, draws):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop._Stage, "_update", stop)
        for options in ({}, {"resume": True}):
            with pytest.raises(KeyboardInterrupt):
                train_recipe(path, out=run, overrides=["train.lr=0.5"], **options)
    assert (run / "recipe.toml").exists()
    assert "nothing was saved: from step 0 on" in capsys.readouterr().out
    train_recipe(path, out=run, overrides=["train.steps=1"])  # by another recipe
    assert [line["step"] for line in lines(run) if "loss" in line] == [0]


def test_a_second_run_in_a_folder_is_refused_and_harms_nothing(recipe, tmp_path, whole):
    """While the first is training; reading needs no lock."""
    path, run = recipe(), tmp_path / "run"
    words = ["train", path, "--out", run, "--set", "train.lr=0.002"]
    pid = start([*words, "--set", "train.checkpoint_every=1"], tmp_path / "out", slow_from=3)
    until(lambda: (run / "checkpoint/state.json").exists())
    for resume in (False, True):
        with pytest.raises(UserError, match=rf"run: process {pid} on .* is writing this run; wait for its end"):
            train_recipe(path, out=run, overrides=["train.lr=0.002"], resume=resume)
    assert Run.open(run).load_model("last")
    assert wait(pid) == 0
    assert results(run) == results(whole)
    assert not (run / "lock").exists()


def ranks(path, place, **second):
    """Return what `start` needs for each of two processes; the environment of the second has `second`."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    words = ["train", path, "--out", place / "run"]
    both = [common | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in (0, 1)]
    return [(words, place / f"out{r}", both[r] | (second if r else {})) for r in (0, 1)]


@pytest.mark.parametrize("ignored", [False, True])
def test_where_nobody_reads_what_a_run_says_any_more_its_step_is_saved_or_it_goes_on(recipe, tmp_path, whole, ignored):
    """As by `manyseg train ... | tee log` whose tee is ended; what ignores the end of the terminal goes on."""
    pipe, run = tmp_path / "pipe", tmp_path / "run"
    os.mkfifo(pipe)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    pid = start(["train", recipe(), "--out", run, "--set", "train.lr=0.002"], pipe, slow_from=2)
    signal.signal(signal.SIGHUP, before)
    with pipe.open() as reader:
        until(lambda: "train 2/8" in reader.readline())
    assert wait(pid) == (0 if ignored else 128 + signal.SIGHUP)
    if not ignored:
        assert not run.joinpath("report.html").exists()
        assert len(lines(run)) <= json.loads((run / "checkpoint/state.json").read_text())["state"]["step"] + 1 < 8
        train_recipe(recipe(), out=run, overrides=["train.lr=0.002"], resume=True)
    assert results(run) == results(whole)


def test_a_signal_to_one_of_two_processes_ends_both_after_the_same_step(recipe, tmp_path):
    run = tmp_path / "run"
    pids = [start(words, out, slow_from=2, **environment) for words, out, environment in ranks(recipe(), tmp_path)]
    until(lambda: len(lines(run)) >= 2)
    os.kill(pids[1], signal.SIGTERM)
    assert [wait(pid) for pid in pids] == [143, 143]
    texts = [(tmp_path / f"out{r}").read_text() for r in (0, 1)]
    told = [[line for line in text.splitlines() if line.startswith("stopped by")] for text in texts]
    saved = json.loads((run / "checkpoint/state.json").read_text())["state"]["step"]
    assert len(told[0]) == 1
    assert f"step {saved} of 8 is saved; to go on: launch the 2 processes as before, each with: manyseg" in told[0][0]
    assert told[1] == []
    assert "this step is finished" not in texts[1]
    assert not any("Traceback" in text for text in texts)


def test_an_error_of_one_of_two_processes_ends_both_and_is_not_buried(recipe, tmp_path):
    pids = [start(words, out, **environment) for words, out, environment in ranks(recipe(), tmp_path, FAILS="1")]
    assert [wait(pid) for pid in pids] == [1, 1]
    texts = [(tmp_path / f"out{r}").read_text() for r in (0, 1)]
    assert texts[1].splitlines()[-1] == "error: step 2: planted"
    end = f"error: {tmp_path}/run: another process of this run has ended, and says why; this one ends too"
    assert texts[0].splitlines()[-1] == end
    assert not any("Traceback" in text for text in texts)


def test_what_a_launcher_starts_again_goes_on_by_itself(recipe, tmp_path, monkeypatch, capsys):
    def stop(self, method):
        raise UserError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(stages.Training, "_evaluate", stop)
        with pytest.raises(UserError, match="planted"):
            train_recipe(recipe(), out=tmp_path / "run")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    train_recipe(recipe(), out=tmp_path / "run")
    assert "going on after step 8 of 8" in capsys.readouterr().out
