"""What the server, and the verb that starts it, advise works."""

import json
import shutil
import socket
import sys
import time

import numpy as np
import pytest
from advice import follow
from conftest import encoded, served
from test_api import header_of, reader
from typer.testing import CliRunner

from manyseg.cli import app
from manyseg.serve import server
from manyseg.serve.images import RequestError
from manyseg.serve.limits import Limits
from manyseg.serve.server import open_runs


def refused(site, path, body, status, said, **headers):
    found, answer = site.json(path, body, **headers)
    assert (found, said in answer["detail"]) == (status, True), answer


LARGE = encoded(np.zeros((100, 100, 3), np.uint8), "BMP")

IMAGES = [
    ("/api/mask", b"hello", 415, "send JPEG, PNG, WEBP, BMP, TIFF, GIF", "/api/mask"),
    ("/api/mask", b"", 422, "the body is empty; send the bytes of an image", "/api/mask"),
    ("/api/mask", None, 422, "save or send it again", "/api/mask"),
    ("/api/mask", LARGE, 413, "has more than 0.005 million pixels; make it smaller", "/api/mask"),
    ("/api/mask?run=x", b"", 422, "there is no run 'x' here; there are: htss, multihead", "/api/mask?run=multihead"),
    ("/api/mask?labels=x", b"", 422, "there are: unified, fine, coarse", "/api/mask?labels=fine"),
]


@pytest.fixture(scope="module")
def small(runs):
    with served(runs, Limits(rate=10**6, pixels=5000, upload=40_000, queue=1)) as site:
        yield site


@pytest.mark.parametrize(("wrong", "body", "status", "said", "right"), IMAGES)
def test_requests_are_answered_as_advised(small, photo, wrong, body, status, said, right):
    refused(small, wrong, photo[:2000] if body is None else body, status, said)
    assert small.ask(right, photo)[0] == 200


def test_so_many_label_spaces_are_asked_for_as_advised(small, photo):
    refused(small, "/api/predict?" + "&".join(f"labels=a{i}" for i in range(40)), photo, 422, "ask for 32 at most")
    assert small.ask("/api/predict?labels=fine&labels=coarse", photo)[0] == 200


def test_a_smaller_image_is_sent_as_advised(small, photo):
    refused(small, "/api/mask", b"x" * 50_000, 413, "more than 0.04 MB were sent; send a smaller image")
    assert small.ask("/api/mask", photo)[0] == 200


def test_what_is_sent_in_parts_and_what_its_header_says_is_smaller_as_advised(small, photo):
    said = "more than 0.04 MB were sent; send a smaller image"
    refused(small, "/api/mask", iter([b"x" * 30_000] * 2), 413, said)
    refused(small, "/api/mask", header_of(30000, 30000), 413, "million pixels; make it smaller")
    assert small.ask("/api/mask", iter([photo]))[0] == 200


def test_words_are_asked_for_as_advised():
    for wrong, said, right in (
        (" , ", "give 1 to 100 words with commas between them, or one of: ", "road, sky"),
        (" , ", "or one of: .*street", "street"),
        ("a|b", "rename the class", "a or b"),
    ):
        with pytest.raises(RequestError, match=said):
            reader(True).output(wrong)
        assert reader(True).output(right).space.names


def test_what_is_not_there_is_looked_up_as_advised(site):
    for path in ("/nothing", "/static/nothing.js"):
        refused(site, path, None, 404, "/docs lists what can be asked")
    refused(site, "/api/labels", b"x", 405, "/docs lists what can be asked")
    assert site.ask("/api/labels", b"x")[1]["allow"] == "GET"
    assert site.ask("/docs")[0] == 200
    refused(site, "/workbench/7", None, 404, "there are 2 runs here, counted from 0")
    assert site.ask("/workbench/1", b"[1]")[0] == 422  # It is there.


def test_the_server_is_called_as_advised(site):
    refused(site, "/health", None, 421, "ask for it by its address, or as localhost", Host="evil.example")
    assert [site.ask("/health", Host=name)[0] for name in ("127.0.0.1", "localhost")] == [200, 200]


def test_the_servers_own_page_may_ask_and_so_may_no_browser_as_advised(site, photo):
    said = "use the server's own page, or no browser"
    refused(site, "/api/mask", photo, 403, said, Origin="http://evil.example")
    assert site.ask("/api/mask", photo, Origin=site.address)[0] == 200
    assert site.ask("/api/mask", photo)[0] == 200


def test_the_address_with_its_token_is_opened_as_advised(runs):
    with served(runs[:1], token="secret-1") as site:
        refused(site, "/api/labels", None, 401, "open the address that `manyseg serve` printed, with its ?token=")
        cookie = site.ask("/?token=secret-1")[1]["set-cookie"].split(";")[0]
        assert site.ask("/api/labels", Cookie=cookie)[0] == 200


def test_who_asks_too_often_waits_as_advised(runs, monkeypatch):
    with served(runs[:1], Limits(rate=60)) as site:
        while site.ask("/api/labels")[0] == 200:
            pass
        status, answer = site.json("/api/labels")
        assert (status, answer["detail"]) == (429, "too many requests; wait, and ask less often")
        now = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: now() + 2)
        assert site.ask("/api/labels")[0] == 200
        monkeypatch.undo()


def test_what_came_too_late_is_sent_again_as_advised(runs, photo):
    with served(runs[:1], Limits(rate=10**6, timeout=0.2)) as site, site.connect() as slow:
        slow.sendall(b"POST /api/mask HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
        answer = slow.recv(1 << 16)
        if answer:  # Else the connection was ended first, which needs no advice.
            assert b"408" in answer
    with served(runs[:1], Limits(rate=10**6)) as site:
        assert site.ask("/api/mask", photo)[0] == 200


def test_what_waits_is_asked_for_later_as_advised(runs, photo):
    with served(runs[:1], Limits(rate=10**6, queue=0)) as site:
        refused(site, "/api/mask", photo, 503, "0 images are waiting; ask again later")
    with served(runs[:1], Limits(rate=10**6, queue=1)) as site:
        assert site.ask("/api/mask", photo)[0] == 200


def test_corrections_are_sent_as_advised(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "run")
    with served(open_runs([tmp_path / "run"])) as site:
        said = "send a JSON object with the texts 'table' and 'constraints'"
        refused(site, "/workbench/0", b"[1]", 422, said)
        table = open_runs([tmp_path / "run"])[0].model.taxonomy.to_tsv()
        body = json.dumps({"table": table, "constraints": "must_link = 3"})
        refused(site, "/workbench/0", body, 422, "write must_link = [")
        for constraints in ("", 'must_link = ["fine:car = coarse:vehicle"]'):
            assert site.ask("/workbench/0", json.dumps({"table": table, "constraints": constraints}))[0] == 200


def test_the_verb_listens_as_advised(monkeypatch):
    class Server:
        def run(self, sockets):
            pass

    monkeypatch.setattr(server, "open_runs", lambda *_: [])
    monkeypatch.setattr(server, "server_of", lambda *_, **__: Server())
    serve = server.serve_runs
    follow(lambda: serve(["x"], token="a b"), "make it of letters, digits", lambda: serve(["x"], token="a-b_1", port=0))
    follow(lambda: serve(["x"], host="300.0.0.1"), "try 127.0.0.1", lambda: serve(["x"], host="127.0.0.1", port=0))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        follow(lambda: serve(["x"], port=port), "choose another --port", lambda: serve(["x"], port=0))


def test_what_serves_is_installed_as_advised(monkeypatch):
    monkeypatch.setattr(server, "serve_runs", lambda *_, **__: None)
    serve = lambda: CliRunner().invoke(app, ["serve", "x"], catch_exceptions=False)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "fastapi", None)
        follow(serve, r'pip install "manyseg\[serve\]"', lambda: [patch.undo(), serve()])


def test_one_run_is_served_or_two_are_compared_as_advised(monkeypatch):
    monkeypatch.setattr(server, "serve_runs", lambda *_, **__: None)
    serve = lambda *runs: CliRunner().invoke(app, ["serve", *runs])  # noqa: E731
    refused = serve("a", "b", "c")
    assert (refused.exit_code, "one is served, or two are compared" in refused.output) == (2, True)
    assert [serve("a").exit_code, serve("a", "b").exit_code] == [0, 0]
