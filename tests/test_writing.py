"""Every verb that writes, at every place where writing cannot succeed: one line, and the old file as it was."""

import os
import re
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from tiny import tiny_recipe
from typer.testing import CliRunner

from manyseg import atomic
from manyseg.cli import app
from manyseg.errors import UserError


def say(*words):
    result = CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def given(world, tmp_path_factory):
    """What the verbs read: a recipe, a run, an image."""
    recipe = world.folder / "writing.toml"
    recipe.write_text(tiny_recipe("fine"))
    run = tmp_path_factory.mktemp("run") / "run"
    say("train", recipe, "--out", run, "--no-check")
    image = run.parent / "image.png"
    shutil.copy(world.folder / "fine/images/val-0000.png", image)
    return {"recipe": recipe, "run": run, "image": image, "world": world}


FILES = {
    "data --sheet": lambda g, to: ["data", g["world"].cards["fine"], g["world"].folder / "fine", "--sheet", to],
    "data --guess -o": lambda g, to: ["data", "--guess", g["world"].folder / "fine", "--force", "-o", to],
    "labels -o": lambda g, to: ["labels", g["world"].cards["fine"], "--by", "names", "-o", to],
    "labels --html": lambda g, to: ["labels", g["world"].cards["fine"], "--by", "names", "--html", to],
    "eval --json": lambda g, to: ["eval", g["run"], "--json", to],
}
"""Verbs that write a file."""

FOLDERS = {
    "predict": lambda g, to: ["predict", g["run"], g["image"], "--out", to],
    "pack": lambda g, to: ["pack", g["recipe"], "-o", to],
    "train": lambda g, to: ["train", g["recipe"], "--no-check", "--out", to],
}
"""Verbs that fill a folder."""

VERBS = FILES | FOLDERS


@pytest.fixture(params=VERBS)
def verb(request):
    return request.param


def refused(given, verb, to):
    with pytest.raises(UserError) as e:
        say(*VERBS[verb](given, to))
    assert "\n" not in str(e.value)
    assert str(Path(to).with_suffix("")) in str(e.value)  # of a card, the lists beside it are written first
    return str(e.value)


def test_a_place_below_a_file_is_refused(given, tmp_path, verb):
    (tmp_path / "file").write_text("old")
    assert "a part of the path is a file; choose another place" in refused(given, verb, tmp_path / "file/x.png")
    assert (tmp_path / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_place_of_the_system_is_refused(given, verb):
    if not Path("/proc").is_dir():
        pytest.skip("there is no /proc")
    assert "choose a place where you may write" in refused(given, verb, "/proc/x.png")


@pytest.mark.parametrize("place", ["n" * 300 + "/x.png", "d/" * 2500 + "x.png"])
def test_a_name_that_is_too_long_is_refused(given, tmp_path, verb, place):
    assert "choose a shorter name" in refused(given, verb, tmp_path / place)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_a_file_is_refused_and_a_file_in_that_of_a_folder(given, tmp_path, verb):
    place = tmp_path / "x.png"
    place.mkdir() if verb in FILES else place.write_text("old")
    assert "choose another" in refused(given, verb, place)
    assert place.is_dir() == (verb in FILES)


def test_a_device_stays_a_device(given, tmp_path, verb):
    if verb not in FILES or verb == "data --sheet" or not Path("/dev/full").is_char_device():
        pytest.skip("of files of any name, where there is a full device")
    (tmp_path / "link").symlink_to("/dev/full")
    for to in ("/dev/full", tmp_path / "link"):
        assert "No space left on device" in refused(given, verb, to)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    say(*VERBS[verb](given, "/dev/null"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_link_is_followed(given, tmp_path, verb):
    if verb not in FILES:
        pytest.skip("of files only")
    (tmp_path / "far").mkdir()
    (tmp_path / "link.png").symlink_to("far/t")
    say(*VERBS[verb](given, tmp_path / "link.png"))
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "far/t").stat().st_size > 0


def stopping(monkeypatch, number, at=1):
    """Send this process a signal when a file is synced for the nth time."""
    calls, sync = [], os.fsync

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == at:
            os.kill(os.getpid(), number)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_file_is_written_ends_it_in_one_line_and_the_old_file_is_kept(
    given, tmp_path, verb, number, monkeypatch
):
    to = tmp_path / "x.png"
    if verb in FILES:
        to.write_text("old")
    before = signal.getsignal(number)
    stopping(monkeypatch, number)
    result = CliRunner().invoke(app, [str(w) for w in VERBS[verb](given, to)])
    assert result.exit_code == 128 + number
    assert result.stderr.splitlines()[-1].startswith(f"stopped by {number.name}")
    assert "Traceback" not in result.output
    assert not list(tmp_path.rglob(f"{atomic.PREFIX}*"))
    assert verb in FOLDERS or to.read_text() == "old"
    assert signal.getsignal(number) is before


def test_what_was_predicted_before_a_signal_stays_and_resume_goes_on(given, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for i in range(4):
        shutil.copy(given["image"], tmp_path / f"{i}.png")
    words = ["predict", given["run"], tmp_path, "--out", out, "--write", "masks"]
    with monkeypatch.context() as patch:
        stopping(patch, signal.SIGTERM, at=4)  # Two of labels.json: the file and its folder.
        result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == 143
    done = re.fullmatch(
        rf"stopped by SIGTERM: (\d) of 4 images are done, in {out}; --resume goes on with the others",
        result.stderr.splitlines()[-1],
    )
    there = list((out / "masks").glob("[!.]*"))  # A file that is being written may still be there.
    assert int(done[1]) <= len(there) < 4
    assert say(*words, "--resume")
    assert len(list((out / "masks").iterdir())) == 4
    assert all(file.stat().st_size for file in there)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few pages, with an old file; skips where mounting one is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip("mounting a small file system needs more privileges")
    (place / "old.png").write_text("old")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_on_a_full_and_on_a_read_only_disk_the_old_file_is_kept(given, small_disk, verb, how):
    if how == "full":
        (small_disk / "rest").write_bytes(b"x" * 4096)
        expected = "No space left on device); make room on the disk"
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        expected = "choose a place where you may write"
    if verb in FILES:
        assert expected in refused(given, verb, small_disk / "old.png")
    else:
        with pytest.raises(UserError) as e:
            say(*VERBS[verb](given, small_disk))
        assert "\n" not in str(e.value)
        assert expected in str(e.value) or "make room there" in str(e.value)
    assert (small_disk / "old.png").read_text() == "old"
    left = {p.name for p in small_disk.rglob("*") if p.is_file()}
    assert left <= {"old.png", "rest", "manifest.json"}
