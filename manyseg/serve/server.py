"""The process that serves: its socket, its signals, and connections that may not hang."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from manyseg.errors import UserError
from manyseg.runs.hub import hub_address
from manyseg.runs.run import Run
from manyseg.serve.app import build_app
from manyseg.serve.limits import Limits
from manyseg.serve.served import Served

__all__ = ["open_runs", "serve_runs", "server_of"]

GRACE = 10
"""Seconds that requests in hand have when the server is asked to stop."""

SPARE = 64
"""Connections beyond the limit that are still told so (503); those beyond these are closed at once."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve_runs(
    folders: Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Serve a run, or two to compare, until SIGINT or SIGTERM; requests in hand are finished then.

    On another host than the loopback a token is needed, and made up where none is given. The address is printed with
    it, once connections are taken. `port` 0 takes any that is free. Raises UserError where nothing can listen there.
    """
    if token is not None and not re.fullmatch(r"[\w-]+", token, re.ASCII):
        raise UserError("--token: it goes into addresses; make it of letters, digits, '-' and '_'")
    if host not in LOOPBACK and token is None:
        token = secrets.token_urlsafe(24)
    with _listening(host, port) as listening:
        runs = open_runs(folders, overrides)
        server = server_of(runs, limits or Limits(), token=token, host=host)
        shown = f"[{host}]" if ":" in host else socket.gethostname() if host == "0.0.0.0" else host
        where = f"http://{shown}:{listening.getsockname()[1]}/" + ("" if token is None else f"?token={token}")
        print(f"serving {' and '.join(r.name for r in runs)} at {where} (Ctrl-C stops)", flush=True)
        # uvicorn raises the signal that stopped it again, for whoever had taken it before.
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.run(sockets=[listening])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def open_runs(folders: Sequence[str | Path], overrides: Sequence[str] = ()) -> list[Served]:
    """Load the models of runs; each is called as its folder, or by its place on the hub."""
    out: list[Served] = []
    for folder in folders:
        address = hub_address(folder)
        run = Run.open(folder, overrides)
        name = run.folder.resolve().name if address is None else address
        taken = [served.name for served in out]
        name = next(n for n in (name, *(f"{name} ({i})" for i in range(2, 10))) if n not in taken)
        out.append(Served(name, run, run.load_for_images(), run.folder if address is None else None))
    return out


def server_of(
    runs: Sequence[Served], limits: Limits, *, token: str | None = None, host: str = "127.0.0.1"
) -> uvicorn.Server:
    """Return the server of `runs`, which `run` starts."""
    app = build_app(runs, limits, token=token, names=(host, socket.gethostname()))
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=type("_Protocol", (_Timed,), {"seconds": limits.timeout}),
            ws="none",
            lifespan="on",
            log_level=logging.WARNING,
            access_log=False,  # Tokens could be in addresses.
            server_header=False,
            proxy_headers=False,
            limit_concurrency=limits.connections,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=GRACE,
        )
    )


class _Timed(H11Protocol):
    """A connection that is ended where a request does not come, or its answer is not read, within `seconds`."""

    seconds: float
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency + SPARE:
            self.transport.abort()
            return
        self._begin()

    def data_received(self, data: bytes) -> None:
        if self._late is None:
            self._begin()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE and self.conn.their_state is not h11.SEND_BODY:
            self._end()  # The whole request is there.

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self.loop.call_later(self.seconds, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(self.seconds, self.transport.abort)

    def _begin(self) -> None:
        self._late = self.loop.call_later(self.seconds, self.transport.abort)

    def _end(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _listening(host: str, port: int) -> socket.socket:
    """Take the port before anything is loaded, so that one that is taken is said at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as e:
        raise UserError(f"--host {host}: no address of this machine ({e.strerror or e}); try 127.0.0.1") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(512)
    except OSError as e:
        listening.close()
        raise UserError(f"--host {host} --port {port}: cannot listen ({e.strerror}); choose another --port") from None
    return listening
