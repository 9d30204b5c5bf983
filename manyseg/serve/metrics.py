"""Counters of a server, in the text format that Prometheus reads."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from threading import Lock

__all__ = ["Metrics"]

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of times."""

FAMILIES: Mapping[str, tuple[str, str]] = {
    "manyseg_requests_total": ("counter", "Requests by path and status."),
    "manyseg_images_total": ("counter", "Images predicted, by run."),
    "manyseg_batches_total": ("counter", "Passes of the network; images of one size and the same labels share one."),
    "manyseg_predict_seconds": ("histogram", "Seconds of a pass of the network."),
    "manyseg_request_seconds": ("histogram", "Seconds from the first byte of a request for an image to its answer."),
    "manyseg_upload_bytes": ("gauge", "Bytes of bodies that are held."),
    "manyseg_images_waiting": ("gauge", "Images that are decoded, wait or are predicted."),
}

Key = tuple[str, tuple[tuple[str, str], ...]]


class Metrics:
    """Counters, times and gauges by name and labels; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[Key] = Counter()
        self._times: dict[str, tuple[list[int], float]] = {}
        self._gauges: dict[str, Callable[[], float]] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] += amount  # type: ignore[assignment]

    def time(self, name: str, seconds: float) -> None:
        """Add a time to a histogram."""
        with self._lock:
            counts, total = self._times.get(name, ([0] * (len(SECONDS) + 1), 0.0))
            counts[bisect_left(SECONDS, seconds)] += 1
            self._times[name] = (counts, total + seconds)

    def gauge(self, name: str, value: Callable[[], float]) -> None:
        """Name a number that is asked for when the metrics are read."""
        self._gauges[name] = value

    def mean(self, name: str) -> float:
        """Return the mean of a histogram's times, 0 where there is none."""
        with self._lock:
            counts, total = self._times.get(name, ([0], 0.0))
            return total / max(sum(counts), 1)

    def to_text(self) -> str:
        """Render all of them."""
        with self._lock:
            counts, times = dict(self._counts), {k: (list(c), t) for k, (c, t) in self._times.items()}
        lines = []
        for name, (kind, text) in FAMILIES.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            if name in self._gauges:
                lines.append(f"{name} {self._gauges[name]():g}")
            for (found, labels), value in sorted(counts.items()):
                if found == name:
                    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
                    lines.append(f"{name}{{{inside}}} {value:g}" if inside else f"{name} {value:g}")
            if name in times:
                lines += _histogram(name, *times[name])
        return "\n".join(lines) + "\n"


def _histogram(name: str, counts: list[int], total: float) -> list[str]:
    lines, below = [], 0
    for bound, n in zip([f"{s:g}" for s in SECONDS] + ["+Inf"], counts, strict=True):
        below += n
        lines.append(f'{name}_bucket{{le="{bound}"}} {below}')
    return [*lines, f"{name}_sum {total:.6f}", f"{name}_count {below}"]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
