"""The one thread that owns the networks."""

import threading

import pytest
import torch

from manyseg.serve.metrics import Metrics
from manyseg.serve.worker import Task, Worker


class Model:
    """Answers each image with its own first value, and remembers how many came together; it waits for a sign."""

    def __init__(self):
        self.method = type("Method", (), {"device": torch.device("cpu")})
        self.batches = []
        self.begun, self.go = threading.Semaphore(0), threading.Event()

    def predict_spaces(self, shown, size, outputs):
        self.begun.release()
        self.go.wait(20)
        self.batches.append((shown[:, 0, 0, 0].tolist(), size, outputs))
        if 13 in self.batches[-1][0]:
            raise ValueError("unlucky")
        return [[value] for value in self.batches[-1][0]]


@pytest.fixture
def worker():
    worker = Worker(Metrics())
    yield worker
    worker.stop()


def task(model, value, size=(4, 6), labels=("run", "street")):
    return Task(model, labels, labels[1:], torch.full((3, *size), value, dtype=torch.uint8), size)


def test_what_waits_and_fits_is_predicted_together_in_order(worker):
    model = Model()
    first = worker.submit(task(model, 0))
    assert model.begun.acquire(timeout=20)
    kinds = [(1, {}), (2, {"size": (4, 7)}), (3, {}), (4, {"labels": ("run", "park")}), (5, {})]
    waiting = [worker.submit(task(model, value, **kind)) for value, kind in kinds]
    model.go.set()
    assert [f.result(20) for f in (first, *waiting)] == [[i] for i in range(6)]
    assert [values for values, _, _ in model.batches] == [[0], [1, 3, 5], [2], [4]]
    assert model.batches[2][1:] == ((4, 7), ("street",))


def test_no_more_are_predicted_together_than_pay(worker):
    """On a CPU 2^17 pixels go together: two images of 2^16."""
    model = Model()
    futures = [worker.submit(task(model, 0))]
    assert model.begun.acquire(timeout=20)
    futures += [worker.submit(task(model, value, size=(256, 256))) for value in range(1, 6)]
    model.go.set()
    assert [f.result(20) for f in futures] == [[i] for i in range(6)]
    assert [values for values, _, _ in model.batches] == [[0], [1, 2], [3, 4], [5]]


def test_what_was_given_up_is_left_out_and_an_error_ends_its_own_batch_only(worker):
    model = Model()
    futures = [worker.submit(task(model, 0))]
    assert model.begun.acquire(timeout=20)
    futures += [worker.submit(task(model, value, size=(4, value + 4))) for value in (7, 13, 9)]
    assert futures[1].cancel()
    model.go.set()
    assert futures[3].result(20) == [9]
    with pytest.raises(ValueError, match="unlucky"):
        futures[2].result(20)
    assert [values for values, _, _ in model.batches] == [[0], [13], [9]]


def test_a_worker_that_stops_finishes_what_is_in_the_line():
    worker, model = Worker(Metrics()), Model()
    futures = [worker.submit(task(model, value, size=(4, value + 1))) for value in range(3)]
    model.go.set()
    worker.stop()
    assert [f.result(0) for f in futures] == [[0], [1], [2]]
    with pytest.raises(RuntimeError, match="stops"):
        worker.submit(task(model, 1)).result(0)
