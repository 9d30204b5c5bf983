"""What one client, or all together, may ask of the server."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

__all__ = ["Limits", "Rate"]


@dataclass(frozen=True)
class Limits:
    """The bounds of a server, so that memory and time are bounded whatever is sent.

    `upload` is the largest body in bytes, `pixels` the largest image, known from its header before it is decoded.
    `rate` is the number of requests a minute of one client, by its address. `queue` is the number of images that are
    decoded, wait or are predicted; more are refused. `timeout` are the seconds in which a request must have come, be
    answered, and be read. `connections` are open at once.
    """

    upload: int = 32_000_000
    pixels: int = 50_000_000
    rate: int = 600
    queue: int = 64
    timeout: float = 60.0
    connections: int = 512

    @property
    def buffered(self) -> int:
        """Bytes of bodies that are held at once, of all clients together."""
        return 8 * self.upload


CLIENTS = 10_000
"""Clients that are remembered; of more, the one that was not seen for the longest time is forgotten."""

BURST = 0.2
"""The share of a minute's requests that may come at once."""


class Rate:
    """Requests of each client, as a bucket that fills at the permitted rate and that every request takes one from."""

    def __init__(self, a_minute: int) -> None:
        self.a_second, self.full = a_minute / 60, max(1.0, BURST * a_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float | None = None) -> float:
        """Take one of a client's requests; return 0, or the seconds until it may come again. `now` is in seconds."""
        now = time.monotonic() if now is None else now
        level, before = self._buckets.pop(client, (self.full, now))
        level = min(self.full, level + (now - before) * self.a_second)
        late = max(0.0, (1 - level) / self.a_second)
        self._buckets[client] = (level if late else level - 1, now)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return late
