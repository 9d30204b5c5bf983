"""How far a long piece of work is."""

from types import SimpleNamespace

import pytest

import manyseg.progress as module
from manyseg.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass as the test says."""
    now = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_where_no_terminal_is_a_line_comes_now_and_then(clock, capsys):
    with progress("checking [set]", 100) as done:
        for _ in range(100):
            clock[0] += 0.5
            done()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "checking [set]: 4 of 100, 2 a second, 0:00:48 left"
    assert lines[1] == "checking [set]: 24 of 100, 2 a second, 0:00:38 left"
    assert len(lines) == 5


def test_what_is_done_at_once_needs_no_word(clock, capsys):
    with progress("x", 3) as done:
        for _ in range(3):
            done()
    assert capsys.readouterr().err == ""


def test_where_nobody_knows_how_many_there_are_only_what_is_done_is_said(clock, capsys):
    with progress("predicting", None) as done:
        for _ in range(4):
            clock[0] += 5
            done()
    assert capsys.readouterr().err.splitlines() == [
        "predicting: 1 done, 0.2 a second",
        "predicting: 3 done, 0.2 a second",
    ]
