"""Batches that are computed beside each other: how many, with which threads, and what a failure leaves."""

import threading
import time

import pytest
import torch

from manyseg.prediction import passes
from manyseg.prediction.passes import Passes

CPU = torch.device("cpu")


@pytest.fixture
def threads():
    """Four threads of torch, as on a machine with four cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


class Work:
    """Batches that wait until they are let go; `most` is how many were computed at once."""

    def __init__(self):
        self.gate, self.lock = threading.Event(), threading.Lock()
        self.now = self.most = 0
        self.threads = []

    def __call__(self, number):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.threads.append(torch.get_num_threads())
        if number:
            self.gate.wait(20)
        with self.lock:
            self.now -= 1
        return number


def _computed(sizes, device=CPU):
    """Return what was computed of batches of so many pixels after a first small one."""
    work = Work()
    threading.Timer(0.2, work.gate.set).start()
    with Passes(device) as running:
        found = [running.submit(pixels, work, i) for i, pixels in enumerate([1, *sizes])]
    assert [f.result() for f in found] == list(range(len(found)))
    return work


def test_small_batches_are_computed_at_once_with_one_thread_each(threads):
    work = _computed([1000] * 8)
    assert work.most == 4
    assert work.threads == [1] * 9
    assert torch.get_num_threads() == threads


def test_a_large_batch_is_computed_alone_with_all_threads(threads, monkeypatch):
    monkeypatch.setattr(passes, "BESIDE", 1000)
    work = _computed([4000] * 3)
    assert work.most == 1
    assert work.threads == [1, 4, 4, 4]
    work = _computed([2000] * 3)
    assert work.most == 2
    assert work.threads == [1, 2, 2, 2]


def test_many_threads_are_divided_between_few_batches(threads, monkeypatch):
    monkeypatch.setattr(passes, "AT_ONCE", 2)
    work = _computed([1000] * 4)
    assert work.most == 2
    assert work.threads == [2] * 5


def test_a_gpu_has_one_batch_after_the_other(threads):
    assert _computed([1000] * 4, torch.device("cuda")).most == 1
    assert torch.get_num_threads() == threads


def test_the_first_batch_is_computed_alone(threads):
    ended = []

    def work(number):
        if not number:
            time.sleep(0.1)
        else:
            assert ended == [0] * min(1, number)
        ended.append(0)

    with Passes(CPU) as running:
        found = [running.submit(1, work, 0), running.submit(1, work, 1)]
    assert [f.result() for f in found] == [None, None]


def test_seconds_in_which_several_are_computed_count_once(threads):
    with Passes(CPU) as running:
        running.submit(1, time.sleep, 0.0)
        for _ in range(3):
            running.submit(1, time.sleep, 0.2)
    assert 0.2 <= running.busy < 0.55


def test_a_failure_is_that_of_its_batch_and_gives_the_threads_back(threads):
    def fail():
        raise ValueError("no")

    with Passes(CPU) as running:
        failed, after = running.submit(1, fail), running.submit(1, int, 7)
    assert after.result() == 7
    with pytest.raises(ValueError, match="no"):
        failed.result()
    with pytest.raises(KeyboardInterrupt), Passes(CPU) as running:
        raise KeyboardInterrupt
    assert torch.get_num_threads() == threads
