"""Many requests at once, broken ones, and clients that hang: nothing dies, and nothing is left."""

import os
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from conftest import encoded, served

from manyseg.serve.limits import Limits
from manyseg.serve.server import SPARE


def open_files():
    return len(os.listdir("/proc/self/fd"))


def settled(count, expected):
    """Wait until a count has come down to what it was."""
    end = time.monotonic() + 20
    while count() > expected and time.monotonic() < end:
        time.sleep(0.05)
    return count()


def test_200_requests_at_once_are_answered_or_told_to_come_again_and_nothing_is_left(runs, photo):
    files, threads = open_files(), threading.active_count()
    with served(runs[:1], Limits(queue=8, rate=10**6)) as site:
        site.ask("/api/mask", photo)
        inside = threading.active_count(), open_files()
        with ThreadPoolExecutor(200) as clients:
            found = list(clients.map(lambda _: site.ask("/api/mask", photo), range(200)))
        counts = Counter(status for status, _, _ in found)
        assert set(counts) <= {200, 503}
        assert counts[200] >= 8
        assert len({body for status, _, body in found if status == 200}) == 1
        assert all(int(headers["retry-after"]) >= 1 for status, headers, _ in found if status == 503)
        assert site.ask("/api/mask", photo)[0] == 200
        assert settled(open_files, inside[1]) <= inside[1]
        # Threads for images are started as they are needed, a few at most.
        assert threading.active_count() <= inside[0] + 8
    assert settled(open_files, files) <= files
    assert settled(threading.active_count, threads) <= threads


BROKEN = [
    b"\x00\xff\x01garbage\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /api/mask HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /api/mask HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST /api/mask HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"POST /api/mask HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhello",
]


def test_broken_requests_end_alone(runs, photo):
    with served(runs[:1], Limits(rate=10**6)) as site:
        for request in BROKEN:
            with site.connect() as connection:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
        assert site.ask("/api/mask", photo)[0] == 200


HEAD = b"POST /api/mask HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"


@pytest.mark.parametrize("sent", [b"", b"POST /api", HEAD, HEAD + b"\r\n", HEAD + b"\r\nhello"])
def test_a_request_that_does_not_come_is_given_up(runs, photo, sent):
    with served(runs[:1], Limits(timeout=0.4, rate=10**6)) as site, site.connect() as connection:
        connection.sendall(sent)
        started = time.monotonic()
        said = b""
        try:
            while more := connection.recv(1 << 16):
                said += more
        except ConnectionResetError:
            pass
        assert time.monotonic() - started < 15
        assert said.startswith(b"HTTP/1.1 408") or not said
        assert site.ask("/health")[0] == 200


def test_idle_connections_are_bounded_and_leave_room_again(runs, photo):
    limits = Limits(connections=4, timeout=4.0, rate=10**6)
    with served(runs[:1], limits) as site, ExitStack() as idle:
        known = site.server.server_state.connections
        for _ in range(4):
            idle.enter_context(site.connect())
        assert site.ask("/health")[0] == 503
        more = [idle.enter_context(site.connect()) for _ in range(SPARE + 10)]
        with pytest.raises(OSError, match=r"reset|^$"):
            raise_if_closed(more[-1])
        assert len(known) <= 4 + SPARE
        assert settled(lambda: len(known), 0) == 0
        assert site.ask("/api/mask", photo)[0] == 200


def raise_if_closed(connection):
    if not connection.recv(1):
        raise OSError("")


def dribble(connection):
    for _ in range(400):
        connection.sendall(b"x")
        time.sleep(0.05)


def test_a_client_that_sends_a_byte_now_and_then_is_given_up(runs):
    with served(runs[:1], Limits(timeout=0.5, rate=10**6)) as site, site.connect() as connection:
        connection.sendall(HEAD + b"\r\n")
        with pytest.raises(OSError, match=r"pipe|reset"):
            dribble(connection)


def test_an_answer_that_nobody_reads_is_given_up(runs):
    """An overlay of noise has megabytes: more than the sockets between hold."""
    noise = np.random.default_rng(0).integers(0, 256, (1100, 1100, 3), np.uint8)
    with served(runs[:1], Limits(timeout=2, rate=10**6)) as site:
        body = encoded(noise, "JPEG")
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with connection:
            connection.connect(("127.0.0.1", site.port))
            head = "POST /api/overlay HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            open_ = site.server.server_state.connections
            while not open_:
                time.sleep(0.01)
            assert settled(lambda: len(open_), 0) == 0
        assert site.ask("/health")[0] == 200


def test_what_takes_too_long_is_given_up_and_answered_later_as_advised(runs, photo, monkeypatch):
    model = runs[0].model
    whole = type(model).predict_spaces
    monkeypatch.setattr(model, "predict_spaces", lambda *a: time.sleep(1.5) or whole(model, *a), raising=False)
    with served(runs[:1], Limits(timeout=0.5, rate=10**6)) as site:
        status, answer = site.json("/api/mask", photo)
        assert (status, answer["detail"]) == (504, "it took too long; ask again later, or send a smaller image")
        monkeypatch.undo()
        assert settled(lambda: site.ask("/api/mask", photo)[0], 200) == 200
