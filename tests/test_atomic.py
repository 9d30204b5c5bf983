"""The one way to write a file, and that there is no other in the package."""

import ast
import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import manyseg
from manyseg import atomic
from manyseg.errors import UserError

PACKAGE = Path(manyseg.__file__).parent


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("content", ["道路\n", "道路\n".encode(), lambda file: file.write("道路\n".encode())])
def test_a_file_holds_what_was_written_and_nothing_lies_beside_it(tmp_path, content):
    path = tmp_path / "new" / "folder" / "t.tsv"
    for _ in range(2):
        assert atomic.write(path, content) == path
        assert path.read_text(encoding="utf-8") == "道路\n"
        assert names(path.parent) == ["t.tsv"]


def test_a_new_file_follows_the_umask_and_an_old_one_keeps_its_mode(tmp_path):
    before = os.umask(0o027)
    try:
        path = atomic.write(tmp_path / "a", "1")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        atomic.write(path, "2")
        assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("2", 0o604)
    finally:
        os.umask(before)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed_and_stays_a_link(tmp_path, there):
    (tmp_path / "far").mkdir()
    if there:
        (tmp_path / "far/t").write_text("old")
    (tmp_path / "link").symlink_to("far/t")
    atomic.write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far/t").read_text() == "new"
    assert names(tmp_path / "far") == ["t"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full")
def test_a_device_is_written_to_and_stays_a_device(tmp_path):
    before = os.stat("/dev/full")
    atomic.write("/dev/null", "gone")
    with pytest.raises(UserError, match=r"^/dev/full: cannot be written \(No space left on device\); make room"):
        atomic.write("/dev/full", "x")
    assert os.stat("/dev/full").st_ino == before.st_ino
    (tmp_path / "link").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left"):
        atomic.write(tmp_path / "link", "x")
    assert names(tmp_path) == ["link"]


def test_a_pipe_gets_the_content(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE) as reader:
        atomic.write(tmp_path / "pipe", "through")
        assert reader.communicate(timeout=20)[0] == b"through"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_place_that_cannot_be_written_is_one_line_that_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path, what in [
        ("file/t.tsv", "a part of the path is a file; choose another place"),
        ("file/a/b/t.tsv", "a part of the path is a file; choose another place"),
        ("folder", "a folder has this name; choose another one"),
        ("n" * 300, "choose a shorter name"),
        ("/proc/x", "choose a place where you may write"),
        ("/proc/x/y", "choose a place where you may write"),
    ]:
        with pytest.raises(UserError) as e:
            atomic.write(tmp_path / path, "x")
        assert str(e.value).startswith(f"{tmp_path / path}: cannot be written (")
        assert str(e.value).endswith(what)
        assert "\n" not in str(e.value)
    assert names(tmp_path) == ["file", "folder"]


def test_a_file_or_a_folder_that_may_not_be_written_is_left_as_it_is(tmp_path, monkeypatch):
    atomic.write(tmp_path / "t", "old")
    # The tests may run as root, whom no mode stops.
    monkeypatch.setattr(atomic.os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="Permission denied"):
        atomic.write(tmp_path / "t", "new")
    monkeypatch.undo()

    def denied(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(UserError, match=r"Read-only file system\); choose a place where you may write"):
        atomic.write(tmp_path / "t", "new")
    monkeypatch.undo()
    assert (tmp_path / "t").read_text() == "old"
    assert names(tmp_path) == ["t"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_at_any_point_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, error):
    atomic.write(tmp_path / "t", "old")

    def fail(*_):
        raise error

    monkeypatch.setattr(atomic.os, call, fail)
    with pytest.raises((UserError, KeyboardInterrupt)):
        atomic.write(tmp_path / "t", "new")
    assert (tmp_path / "t").read_text() == "old"
    assert names(tmp_path) == ["t"]


def test_a_writer_that_fails_halfway_leaves_the_old_file(tmp_path):
    atomic.write(tmp_path / "t", "old")

    def half(file):
        file.write(b"ne")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        atomic.write(tmp_path / "t", half)
    assert (tmp_path / "t").read_text() == "old"
    assert names(tmp_path) == ["t"]


KILLED = """
import os, signal, sys
from manyseg import atomic
real, how = getattr(os, sys.argv[1]), sys.argv[2]
def die(*args):
    if how == "after":
        real(*args)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv[1], die)
atomic.write(sys.argv[3], "new" * 100_000)
"""


@pytest.mark.parametrize(("call", "how", "left"), [("fsync", "before", "old"), ("replace", "before", "old"),
                                                   ("replace", "after", "new")])  # fmt: skip
def test_a_process_killed_while_it_writes_leaves_the_old_file_or_the_new_one(tmp_path, call, how, left):
    atomic.write(tmp_path / "t", "old" * 100_000)
    done = subprocess.run([sys.executable, "-c", KILLED, call, how, str(tmp_path / "t")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "t").read_text() == left * 100_000
    assert all(name == "t" or name.startswith(atomic.PREFIX) for name in names(tmp_path))


def test_a_file_that_grows_takes_its_place_at_the_end_or_never(tmp_path):
    atomic.write(tmp_path / "t", "old")
    with atomic.writing(tmp_path / "t") as file:
        file.write(b"new")
        assert (tmp_path / "t").read_text() == "old"
    assert (tmp_path / "t").read_text() == "new"

    def fail():
        with atomic.writing(tmp_path / "t") as file:
            file.write(b"half")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert (tmp_path / "t").read_text() == "new"
    assert names(tmp_path) == ["t"]


# No other way.

WRITERS = {"write_text", "write_bytes", "savez", "savez_compressed", "save_file", "copyfile", "copy", "copy2",
           "copytree", "move", "rename", "renames", "mkstemp", "mkdtemp", "NamedTemporaryFile", "truncate", "tofile",
           "savefig", "symlink_to", "hardlink_to"}  # fmt: skip
"""Names of functions that put a file somewhere."""

ALLOWED = {
    ("atomic.py", "open"),
    ("atomic.py", "replace"),
    ("training/checkpoint.py", "save_file"),  # into a folder that lies aside, and is renamed as a whole
    ("training/checkpoint.py", "rename"),
    ("prediction/predict.py", "save"),  # of a Prediction, which writes by atomic.write
    ("serve/app.py", "save"),  # of a Workbench, which writes by atomic.write
    ("export/files.py", "save"),  # into a temporary folder, from where it is copied aside and renamed
    ("prediction/large_images.py", "open"),  # a file that lies aside, by its name, and is renamed
    ("export/predictor.py", "save"),  # it is shipped alone, and renames what it wrote aside by itself
    ("export/predictor.py", "replace"),
    ("training/metrics_log.py", "open"),  # the log alone grows, line by line
}


def _written(tree):
    """Yield the calls in a module that could write a file by other means than `atomic.write`."""
    streams = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = node.value.func
            if getattr(made, "attr", getattr(made, "id", "")) == "BytesIO":
                streams |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        if isinstance(node, ast.Lambda) or (isinstance(node, ast.FunctionDef) and node.name == "fill"):
            streams |= {a.arg for a in node.args.args if a.arg == "file"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = getattr(getattr(node.func, "value", None), "id", "")
        first = node.args[0].id if node.args and isinstance(node.args[0], ast.Name) else ""
        # `open(path, mode)` and `path.open(mode)`.
        modes = [
            *node.args[isinstance(node.func, ast.Name) :][:1],
            *(k.value for k in node.keywords if k.arg == "mode"),
        ]
        if name == "open":
            writes = any(isinstance(m, ast.Constant) and set(str(m.value)) & set("wax+") for m in modes)
        elif name == "replace":  # of files: that of a text has two arguments, that of a record keywords
            writes = owner == "os" or (
                len(node.args) == 1 and isinstance(node.func, ast.Attribute) and not node.keywords
            )
        elif name == "copy":
            writes = owner == "shutil"
        else:
            writes = (name in WRITERS or name == "save") and first not in streams
        if writes and not any(isinstance(a, ast.Starred) for a in node.args):
            yield node.lineno, name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_no_module_writes_a_file_in_another_way(path):
    place = path.relative_to(PACKAGE).as_posix()
    found = [f"{place}:{line}: {name}" for line, name in _written(ast.parse(path.read_text(encoding="utf-8")))
             if (place, name) not in ALLOWED]  # fmt: skip
    assert not found, f"write it by manyseg.atomic.write: {found}"


def test_the_search_for_other_writers_finds_them():
    code = """
open("a", "w"); path.open("ab"); open(p, mode="x"); path.write_text(t); image.save(path); np.save(p, a)
os.replace(a, b); a.replace(b); shutil.copyfile(a, b)
text.replace("a", "b"); open("a"); path.open("rb"); atomic.write(p, lambda file: image.save(file, "PNG"))
buffer = io.BytesIO(); image.save(buffer, "PNG")
"""
    found = [line for line, _ in _written(ast.parse(code))]
    assert sorted(found) == [2] * 6 + [3] * 3
