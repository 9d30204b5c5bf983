"""Who may ask: known hosts, the same origin, a token, a rate; and headers that let a browser do nothing else.

An ASGI middleware. It looks at headers alone; what a request holds is bounded where it is read.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import math
import time
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manyseg.serve.images import RequestError
from manyseg.serve.limits import Rate
from manyseg.serve.metrics import Metrics

__all__ = ["PAGE_POLICY", "Guard", "refusal"]

COOKIE = "manyseg_token"

OPEN = frozenset({"/health"})
"""Paths that need no token: whoever watches over the server asks them."""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "geolocation=(), microphone=()",
    "cache-control": "no-store",
}
"""Headers of every answer that does not state them itself."""


class Guard:
    """Lets through what may be answered, and answers everything else.

    `names` are host names by which the server may be called beside `localhost` and any address in numbers. Another name
    is refused: a page of a stranger could have it lead here (DNS rebinding). With a `token` every request must bring
    it, as a header `Authorization: Bearer TOKEN` or in the cookie that `/?token=TOKEN` sets.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: Iterable[str],
        token: str | None,
        rate: Rate,
        paths: Iterable[str],
        metrics: Metrics,
    ) -> None:
        self.app, self.token, self.rate, self.metrics = app, token, rate, metrics
        self.names = {"localhost", *(name.lower() for name in names)}
        self.paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, path = time.monotonic(), scope["path"]

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                known = path if path in self.paths else "other"
                self.metrics.count("manyseg_requests_total", path=known, status=str(message["status"]))
                if known.startswith("/api/") and scope["method"] == "POST":
                    self.metrics.time("manyseg_request_seconds", time.monotonic() - start)
            await send(message)

        try:
            answer = self._checked(scope)
        except RequestError as e:
            answer = refusal(e)
        await (answer or self.app)(scope, receive, sending)

    def _checked(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._known(host):
            raise RequestError(
                421, f"this server is not called '{host[:100]}'; ask for it by its address, or as localhost"
            )
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != host:
            raise RequestError(403, "a page of another origin may not ask; use the server's own page, or no browser")
        client = scope["client"][0] if scope["client"] else ""
        if scope["path"] in OPEN:
            return None
        if late := self.rate.wait(client):
            raise RequestError(429, "too many requests; wait, and ask less often", late)
        if self.token is None:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and given and self._right(given):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(COOKIE, given, httponly=True, samesite="strict", secure=scope["scheme"] == "https")
            return answer
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if (kind.lower() == "bearer" and self._right(bearer.strip())) or self._right(_cookie(headers)):
            return None
        raise RequestError(401, "a token is needed: open the address that `manyseg serve` printed, with its ?token=")

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self.token or "").encode())

    def _known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def refusal(error: RequestError) -> Response:
    """Answer that a request is refused: JSON with `detail`, as of all errors here."""
    answer = Response(json.dumps({"detail": str(error)}), error.status, media_type="application/json")
    if error.retry is not None:
        answer.headers["retry-after"] = str(max(1, math.ceil(error.retry)))
    if error.status == 401:
        answer.headers["www-authenticate"] = "Bearer"
    return answer
