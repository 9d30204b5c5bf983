"""The verb: where it listens, what it prints, and how it stops."""

import os
import signal
import socket
import sys
import threading
import time
import urllib.request

import pytest
from typer.testing import CliRunner

from manyseg.cli import app
from manyseg.errors import UserError
from manyseg.serve import server


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_what_is_in_hand(folders, photo, number, capsys, monkeypatch):
    """The signal comes while an image is predicted: it is answered, and the call returns."""
    port, answers = free_port(), []
    opened, whole = server.open_runs, []

    def slow(*arguments):
        runs = opened(*arguments)
        whole.append(runs[0].model.predict_spaces)

        def predict(*given):
            os.kill(os.getpid(), number)
            time.sleep(0.5)
            return whole[0](*given)

        runs[0].model.predict_spaces = predict
        return runs

    def client():
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/mask", data=photo, timeout=20) as answer:
                    answers.append(answer.status)
                return
            except OSError:
                time.sleep(0.05)

    monkeypatch.setattr(server, "open_runs", slow)
    before = signal.getsignal(number)
    thread = threading.Thread(target=client)
    thread.start()
    server.serve_runs([folders[0]], port=port)
    thread.join(20)
    assert answers == [200]
    assert signal.getsignal(number) is before
    assert capsys.readouterr().out == f"serving htss at http://127.0.0.1:{port}/ (Ctrl-C stops)\n"


def test_elsewhere_than_on_the_loopback_a_token_is_made_up(monkeypatch, capsys):
    seen = {}

    class Server:
        def run(self, sockets):
            seen["listens"] = sockets[0].getsockname()[0]

    monkeypatch.setattr(server, "open_runs", lambda *_: [])
    monkeypatch.setattr(server, "server_of", lambda runs, limits, **given: seen.update(given) or Server())
    server.serve_runs(["x"], host="0.0.0.0", port=0)
    assert seen["listens"] == "0.0.0.0"
    assert len(seen["token"]) == 32
    assert f"?token={seen['token']} " in capsys.readouterr().out
    server.serve_runs(["x"], host="0.0.0.0", port=0, token="my-own")
    assert seen["token"] == "my-own"
    server.serve_runs(["x"], port=0)
    assert seen["token"] is None


def test_where_nothing_can_listen_is_said_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot listen .*choose another --port"):
            server.serve_runs(["nowhere"], port=port)
    with pytest.raises(UserError, match=r"--host 300\.0\.0\.1: no address of this machine"):
        server.serve_runs(["nowhere"], host="300.0.0.1", port=0)
    with pytest.raises(UserError, match="nowhere: no run is there"):
        server.serve_runs(["nowhere"], port=0)
    with pytest.raises(UserError, match="letters, digits"):
        server.serve_runs(["nowhere"], token="a b")


def test_two_runs_of_one_name_are_told_apart(folders, runs):
    assert [r.name for r in server.open_runs([folders[0], folders[0]])] == ["htss", "htss (2)"]


def test_without_its_extra_the_verb_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(UserError, match=r'pip install "manyseg\[serve\]"'):
        CliRunner().invoke(app, ["serve", "x"], catch_exceptions=False)


def test_three_runs_are_one_too_many():
    result = CliRunner().invoke(app, ["serve", "a", "b", "c"])
    assert result.exit_code == 2
    assert "3 runs were given" in result.output
