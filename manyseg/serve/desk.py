"""The way of an image from a request to its predictions: bounded in bytes, in images, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import ParamSpec, TypeVar

from starlette.requests import Request

from manyseg.cores import READERS
from manyseg.prediction.prediction import Prediction
from manyseg.serve.images import RequestError, decode
from manyseg.serve.limits import Limits
from manyseg.serve.metrics import Metrics
from manyseg.serve.served import Served
from manyseg.serve.worker import Task, Worker

__all__ = ["Desk"]

P = ParamSpec("P")
T = TypeVar("T")

MOST_SPACES = 32
"""Label spaces that may be asked for at once."""


class Desk:
    """Takes images from requests to answers: bounded in bytes, in images, and in time."""

    def __init__(self, runs: Sequence[Served], limits: Limits) -> None:
        self.runs = {served.name: served for served in runs}
        self.limits, self.metrics = limits, Metrics()
        self.worker = Worker(self.metrics)
        self.threads = ThreadPoolExecutor(READERS, "manyseg-images")
        self.buffered = self.inside = 0
        self.metrics.gauge("manyseg_images_waiting", lambda: self.inside)
        self.metrics.gauge("manyseg_upload_bytes", lambda: self.buffered)

    def run(self, name: str | None) -> Served:
        """Return the run of a name, by default the first."""
        if name is None:
            return next(iter(self.runs.values()))
        if name not in self.runs:
            raise RequestError(422, f"there is no run '{name[:100]}' here; there are: {', '.join(self.runs)}")
        return self.runs[name]

    async def predict(self, request: Request, run: str | None, labels: Sequence[str]) -> dict[str, Prediction]:
        """Read the image of a request and predict it in label spaces, by default all of the run."""
        served = self.run(run)
        names = list(dict.fromkeys(labels)) or list(served.spaces)
        if len(names) > MOST_SPACES:
            raise RequestError(422, f"{len(names)} label spaces were asked for at once; ask for {MOST_SPACES} at most")
        outputs = tuple(served.output(name) for name in names)
        async with self.body(request) as content, self._place():
            target = served.model.options.input_size
            shown, size = await self.in_thread(decode, content, self.limits.pixels, target)
            future = self.worker.submit(Task(served.model, (served.name, *names), outputs, shown, size))
            try:
                found = await asyncio.wait_for(asyncio.wrap_future(future), self.limits.timeout)
            except TimeoutError:
                raise RequestError(504, "it took too long; ask again later, or send a smaller image") from None
            return dict(zip(names, found, strict=True))

    async def in_thread(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Call a function that keeps a processor busy."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, partial(function, *arguments, **options))

    def stop(self) -> None:
        """Finish what has begun."""
        self.worker.stop()
        self.threads.shutdown()

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Hold one of the places of images, or refuse."""
        if self.inside >= self.limits.queue:
            wait = self.inside * self.metrics.mean("manyseg_predict_seconds")
            raise RequestError(503, f"{self.inside} images are waiting; ask again later", wait)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body, and count its bytes as long as they are needed."""
        most, length = self.limits.upload, request.headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            raise RequestError(413, _too_many(most))
        content = bytearray()
        try:
            try:
                async with asyncio.timeout(self.limits.timeout):
                    async for chunk in request.stream():
                        content += chunk
                        self.buffered += len(chunk)
                        if len(content) > most:
                            raise RequestError(413, _too_many(most))
                        if self.buffered > self.limits.buffered:
                            raise RequestError(503, "too many images are sent at once; ask again later", 1)
            except TimeoutError:
                late = f"the image did not come within {self.limits.timeout:g} seconds"
                raise RequestError(408, f"{late}; send it again, or a smaller one") from None
            if not content:
                raise RequestError(422, "the body is empty; send the bytes of an image")
            yield bytes(content)
        finally:
            self.buffered -= len(content)


def _too_many(most: int) -> str:
    return f"more than {most / 1e6:.3g} MB were sent; send a smaller image"
