"""When a signal ends a run: at once, at the end of what must be finished, or without waiting where it comes again."""

import os
import signal
import time
from functools import partial
from types import SimpleNamespace

import pytest

from manyseg import stop_signals
from manyseg.errors import Interrupted
from manyseg.stop_signals import STOP_SIGNALS, StopSignals


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
    time.sleep(0)  # Python answers between two of its instructions.


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_ends_what_can_be_ended_at_once(number, request):
    # `nohup` has the tests ignore a hang-up, which then ends nothing.
    request.addfinalizer(partial(signal.signal, number, signal.signal(number, signal.SIG_DFL)))
    with StopSignals(), pytest.raises(Interrupted) as e:
        send(number)
    assert (e.value.signal, e.value.status) == (number, 128 + number)
    assert str(e.value) == f"stopped by {number.name}"


def step(signals, done, between):
    """Hold signals over a step in which `between` is called."""
    with signals.held():
        between(signals)
        done.append("step")


def test_a_signal_waits_for_the_end_of_what_must_be_finished(capfd):
    done = []
    with StopSignals() as signals:
        with pytest.raises(Interrupted):
            step(signals, done, lambda _: send())
        assert signals.received == signal.SIGTERM
    assert done == ["step"]
    assert capfd.readouterr().err.startswith("SIGTERM: this step is finished and saved first; once more ends at once")


@pytest.mark.parametrize("early", [True, False])
def test_within_what_waits_a_part_may_be_ended_at_once(early):
    """By a signal that comes in it, and by one that waits already."""
    done = []

    def evaluate(signals):
        if early:
            send()
        with signals.held(False):
            done.append("evaluation")
            send()

    with StopSignals() as signals, pytest.raises(Interrupted):
        step(signals, done, evaluate)
    assert done == ([] if early else ["evaluation"])


@pytest.mark.parametrize(("after", "ends"), [(0.0, False), (1.5, True)])
def test_a_second_signal_ends_the_process_at_once_unless_it_is_an_echo_of_the_first(after, ends, monkeypatch):
    now, exits = [10.0], []
    # Not the clock of the whole process, by which servers and loops of other threads wait.
    monkeypatch.setattr(stop_signals, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(stop_signals.os, "_exit", exits.append)

    def twice(_):
        send(signal.SIGINT)
        now[0] += after
        send(signal.SIGTERM)

    with StopSignals() as signals, pytest.raises(Interrupted):
        step(signals, [], twice)
    assert exits == [128 + signal.SIGTERM] * ends


def test_handlers_are_given_back_and_what_is_ignored_stays_ignored():
    before = [signal.getsignal(n) for n in STOP_SIGNALS]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopSignals():
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) not in before
    finally:
        signal.signal(signal.SIGHUP, before[STOP_SIGNALS.index(signal.SIGHUP)])
    assert [signal.getsignal(n) for n in STOP_SIGNALS] == before
