"""The cores that a process may use, and what is set for the threads of libraries."""

import os
import subprocess
import sys
import threading

import pytest

from manyseg import cores


@pytest.mark.parametrize(
    ("limit", "affinity", "expected"),
    [
        ("max 100000", 8, 8),
        ("200000 100000", 8, 2),
        ("250000 100000", 8, 2),
        ("50000 100000", 8, 1),
        ("800000 100000", 2, 2),
        ("nonsense", 4, 4),
        (None, 4, 4),
    ],
)
def test_a_containers_limit_counts(limit, affinity, expected, tmp_path, monkeypatch):
    path = tmp_path / "cpu.max"
    if limit is not None:
        path.write_text(limit + "\n")
    monkeypatch.setattr(cores, "QUOTA", path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    assert cores.available_cores.__wrapped__() == expected


@pytest.mark.parametrize(("pixels", "most", "threads"), [(0, 4, 1), (99_999, 4, 1), (300_000, 4, 3), (10**9, 4, 4)])
def test_a_small_step_has_fewer_threads(pixels, most, threads):
    assert cores.threads_for(pixels, most) == threads


def test_the_command_line_sets_threads_that_sleep_while_they_wait_and_keeps_what_is_set():
    code = (
        "import os, sys\nfrom manyseg.cli import main\nsys.argv = ['manyseg', '--version']\ntry:\n    main()\n"
        "except SystemExit:\n    pass\nprint(os.environ['OMP_NUM_THREADS'], os.environ['OMP_WAIT_POLICY'])"
    )

    def said(**given):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
        out = subprocess.run(
            [sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True
        )
        return out.stdout.split()[-2:]

    assert said() == [str(cores.available_cores()), "PASSIVE"]
    assert said(OMP_NUM_THREADS="3", OMP_WAIT_POLICY="ACTIVE") == ["3", "ACTIVE"]


def test_what_threads_have_not_begun_is_left_where_the_work_ends_early():
    begun, gate = [], threading.Event()

    def work(number):
        begun.append(number)
        gate.wait(20)

    def fail():
        with cores.readers() as pool:
            futures.extend(pool.submit(work, i) for i in range(100))
            threading.Timer(0.1, gate.set).start()
            raise KeyboardInterrupt

    futures = []
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert len(begun) <= cores.READERS
    assert sum(f.cancelled() for f in futures) == 100 - len(begun)
    gate.set()
    with cores.readers() as pool:
        futures = [pool.submit(work, i) for i in range(100)]
    assert all(f.done() and not f.cancelled() for f in futures)
