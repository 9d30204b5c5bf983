"""One writer a folder, whatever becomes of the processes that were it."""

import errno
import os
import shutil
import signal
import socket
import time
import warnings

import pytest
from advice import follow

from manyseg.errors import UserError
from manyseg.runs import lock
from manyseg.runs.lock import only_writer


def fork(work):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        pid = os.fork()
    if pid:
        return pid
    try:
        work()
    finally:
        os._exit(0)


def hold(folder, *, fork_too=False):
    """Start a process that holds the lock until it is killed; return its number."""

    def work():
        with only_writer(folder):
            if fork_too:
                fork(lambda: time.sleep(5))
            (folder / "ready").write_text("")
            time.sleep(60)

    pid = fork(work)
    while not (folder / "ready").exists():
        time.sleep(0.005)
    (folder / "ready").unlink()
    return pid


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_second_writer_is_refused_in_one_line_that_names_the_first(tmp_path):
    run = tmp_path / "run"
    pid = hold(run)
    try:
        for _ in range(2):  # Being refused changes nothing.
            with pytest.raises(UserError) as e, only_writer(run):
                pass
            assert str(e.value).startswith(f"{run}: process {pid} on {socket.gethostname()} since 2")
            assert str(e.value).endswith(" is writing this run; wait for its end, or end it, then go on with --resume")
            assert "\n" not in str(e.value)
    finally:
        kill(pid)


@pytest.mark.parametrize("fork_too", [False, True])
def test_a_lock_ends_with_its_process_even_if_its_workers_live_on(tmp_path, fork_too):
    kill(hold(tmp_path / "run", fork_too=fork_too))
    assert (tmp_path / "run/lock").exists()
    with only_writer(tmp_path / "run"):
        assert (tmp_path / "run/lock").read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / "run/lock").exists()


def test_within_one_process_there_is_one_writer_too(tmp_path):
    """To be refused does not give the lock back, as the kernel would where its file were opened and closed."""
    me = os.getpid()

    def refused():
        with pytest.raises(UserError, match=f"process {me} on"), only_writer(tmp_path):
            pass

    with only_writer(tmp_path):
        for _ in range(2):
            refused()
        assert (tmp_path / "lock").exists()
        lock._held.clear()  # as in another process: what follows asks the kernel

        def other():
            refused()
            (tmp_path / "refused").touch()

        os.waitpid(fork(other), 0)
        assert (tmp_path / "refused").exists()
        lock._held[os.path.realpath(tmp_path / "lock")] = ""
    with only_writer(tmp_path):
        pass


def test_a_lock_that_was_removed_while_it_was_taken_is_taken_again(tmp_path, monkeypatch):
    """The holder ends between the opening and the locking of its file."""
    lockf, calls = lock.fcntl.lockf, []

    def late(descriptor, how):
        calls.append(1)
        if len(calls) == 1:
            (tmp_path / "lock").unlink()
        return lockf(descriptor, how)

    monkeypatch.setattr(lock.fcntl, "lockf", late)
    with only_writer(tmp_path):
        assert (tmp_path / "lock").exists()
    assert len(calls) == 2


@pytest.mark.parametrize(("holder", "free"), [("process 1 on {here} since now", False), ("", True),
                                              ("process 999999999 on {here} since now", True),
                                              ("process 7 on elsewhere since now", False)])  # fmt: skip
def test_where_a_file_system_has_no_locks_the_name_in_the_file_is_one(tmp_path, monkeypatch, holder, free):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", none)
    (tmp_path / "lock").write_text(holder.format(here=socket.gethostname()))
    if free:
        with only_writer(tmp_path):
            assert str(os.getpid()) in (tmp_path / "lock").read_text()
    else:
        with pytest.raises(UserError, match=f"if it is there no more, remove {tmp_path}/lock"), only_writer(tmp_path):
            pass
        (tmp_path / "lock").unlink()  # as the message says
        with only_writer(tmp_path):
            pass


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path):
    with pytest.raises(ZeroDivisionError), only_writer(tmp_path / "a"):
        raise ZeroDivisionError
    assert not (tmp_path / "a").exists()
    with only_writer(tmp_path / "a"):
        (tmp_path / "a/recipe.toml").write_text("")
    assert (tmp_path / "a/recipe.toml").exists()
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").mkdir()
    with only_writer(tmp_path / "a"):
        pass
    assert (tmp_path / "a").exists()


def test_a_folder_that_another_process_writes_is_had_when_it_ends_as_advised(tmp_path):
    folder = tmp_path / "run"
    pid = hold(folder)

    def take():
        with only_writer(folder):
            return True

    said = "is writing this run; wait for its end, or end it, then go on with --resume"
    assert follow(take, said, lambda: [kill(pid), take()])[1]
