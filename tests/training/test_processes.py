"""Processes find each other or say so in a bounded time, and then wait as long as one of them works."""

import os
import signal
import socket
import sys
import time
import traceback
import warnings
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState

from manyseg.errors import UserError
from manyseg.stop_signals import StopSignals
from manyseg.training import processes
from manyseg.training.processes import find_processes


@pytest.fixture
def two():
    """The environment of two processes, without their ranks."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    return {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}


def start(work, rank, environment):
    """Do `work` in a process of its own; 0 if it succeeds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
        AcceleratorState._reset_state(True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work()
        status = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_left_alone_says_so_in_one_line_and_can_begin_again(two, rank, monkeypatch):
    """The first hosts the meeting, the second looks for it."""
    monkeypatch.setattr(processes, "MEETING", timedelta(seconds=1))

    def work():
        with pytest.raises(
            UserError, match=rf"^process {rank} of 2 did not find the others at 127.0.0.1:\d+ within 1 s; "
        ):
            find_processes()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        del os.environ["WORLD_SIZE"], os.environ["RANK"], os.environ["LOCAL_RANK"]
        assert find_processes().num_processes == 1

    assert wait(start(work, rank, two)) == 0


def test_processes_that_have_met_wait_longer_for_one_that_works_alone(two, monkeypatch):
    monkeypatch.setattr(processes, "MEETING", timedelta(seconds=3))

    def work():
        found = find_processes()
        if found.is_main_process:
            time.sleep(5)
        found.wait_for_everyone()
        assert processes.Agreement(found).largest(found.process_index) == 1

    assert [wait(pid) for pid in [start(work, rank, two) for rank in (0, 1)]] == [0, 0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_process_that_waits_for_the_others_also_where_the_command_line_takes_signals(
    two, number, monkeypatch
):
    def waits(**_):
        os.kill(os.getpid(), number)
        time.sleep(30)

    def work():
        signal.signal(number, signal.SIG_DFL)
        with StopSignals():
            find_processes()

    monkeypatch.setattr(processes, "Accelerator", waits)
    assert wait(start(work, 0, two)) == -number


def test_what_is_started_again_meets_beside_what_an_earlier_attempt_left_in_the_store(two, monkeypatch):
    """As with torchrun, whose agent keeps one store for all attempts."""
    monkeypatch.setattr(processes, "MEETING", timedelta(seconds=30))
    store = dist.TCPStore("127.0.0.1", int(two["MASTER_PORT"]), is_master=True, wait_for_workers=False)
    two |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}

    def work():
        assert find_processes().num_processes == 2
        assert processes.Accelerator().gather(torch.ones(1)).tolist() == [1, 1]

    for attempt in ("0", "1"):
        two |= {"TORCHELASTIC_RESTART_COUNT": attempt}
        second = start(work, 1, two)
        # The second must not look for the first where that of the earlier attempt was.
        time.sleep(3)
        assert [wait(start(work, 0, two)), wait(second)] == [0, 0]
    del store
