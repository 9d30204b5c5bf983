"""The JSON API and the page: what a request means, and what is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from manyseg import __version__
from manyseg.errors import UserError
from manyseg.serve.answers import Answer, Health, RunLabels, answer, mask_of, png, run_labels
from manyseg.serve.desk import Desk
from manyseg.serve.guard import Guard, refusal
from manyseg.serve.images import RequestError
from manyseg.serve.limits import Limits, Rate
from manyseg.serve.served import Served
from manyseg.serve.workbench import WORKBENCH_POLICY, Workbench
from manyseg.templates import render

__all__ = ["build_app"]

STATIC = {"page.js": ("serve.js", "text/javascript"), "page.css": ("serve.css", "text/css")}
"""The page's other files: their templates and types."""

ELSEWHERE = "/docs lists what can be asked"
"""What is advised where an address leads nowhere."""

Labels = Annotated[str, Query(description='"unified", a dataset, "hierarchy", or words: "road, sky"')]
ManyLabels = Annotated[list[str] | None, Query(description="Label spaces; may be repeated. By default all of the run.")]
RunName = Annotated[str | None, Query(description="Which run, where two are served. By default the first.")]

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The bytes of an image: JPEG, PNG, WebP, BMP, TIFF or GIF.",
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""Bodies are read with limits of size and time, so that FastAPI does not read them, and cannot describe them."""

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"example": {"detail": text}}}}
    for status, text in {
        401: "a token is needed",
        408: "the image came too slowly",
        413: "the body or the image is too large",
        415: "no image of a known format",
        422: "a broken image, or labels that the run does not have",
        429: "too many requests of this client; see Retry-After",
        503: "too many images are waiting; see Retry-After",
        504: "it took too long",
    }.items()
}


def build_app(runs: Sequence[Served], limits: Limits, *, token: str | None = None, names: Sequence[str] = ()) -> Guard:
    """Build the application that serves `runs`, the first one by default; see `Guard` for `token` and `names`."""
    desk = Desk(runs, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(desk.stop)

    app = FastAPI(
        title="manyseg",
        version=__version__,
        description="One segmentation model, asked in the labels of any of its datasets.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )

    @app.exception_handler(RequestError)
    async def refuse(request: Request, error: RequestError) -> Response:
        return refusal(error)

    @app.exception_handler(UserError)
    async def at_fault(request: Request, error: UserError) -> Response:
        return refusal(RequestError(422, str(error)))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        answer = refusal(RequestError(error.status_code, f"{error.detail}; {ELSEWHERE}"))
        answer.headers.update(error.headers or {})
        return answer

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        """Show the page."""
        return HTMLResponse(render("serve.html", runs=[*desk.runs], upload=limits.upload))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """Show what `/openapi.json` says; the usual page for it would load scripts of other hosts."""
        return HTMLResponse(render("api.html", api=app.openapi()))

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        """Give the page's script and style."""
        if name not in STATIC:
            raise RequestError(404, f"there is nothing here; {ELSEWHERE}")
        return Response(render(STATIC[name][0]), media_type=STATIC[name][1])

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        """Answer what browsers ask for by themselves; the page names its own."""
        return Response(status_code=204)

    @app.get("/health")
    async def health() -> Health:
        """Say that the server answers."""
        return Health(status="ok", version=__version__, runs=[*desk.runs])

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counters and times, as Prometheus reads them."""
        return PlainTextResponse(desk.metrics.to_text())

    @app.get("/api/labels")
    async def labels() -> list[RunLabels]:
        """List the label spaces of every run, with their classes."""
        return [run_labels(served) for served in desk.runs.values()]

    @app.post("/api/predict", openapi_extra=BODY, responses=ERRORS)
    async def predict(request: Request, labels: ManyLabels = None, run: RunName = None) -> Answer:
        """Segment an image in several label spaces at once: label maps, classes and confidences."""
        found = await desk.predict(request, run, labels or [])
        # Built in a thread, and not checked again: these are megabytes.
        return cast(Answer, await desk.in_thread(answer, desk.run(run).name, found))

    pictures: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}

    @app.post("/api/mask", openapi_extra=BODY, responses=ERRORS | pictures, response_class=Response)
    async def mask(request: Request, labels: Labels = "unified", run: RunName = None) -> Response:
        """Segment an image and return its label map alone, as a PNG of the classes' values."""
        (found,) = (await desk.predict(request, run, [labels])).values()
        return Response(await desk.in_thread(png, mask_of(found)), media_type="image/png")

    @app.post("/api/overlay", openapi_extra=BODY, responses=ERRORS | pictures, response_class=Response)
    async def overlay(request: Request, labels: Labels = "unified", run: RunName = None) -> Response:
        """Segment an image and return it with its label map over it and a legend, as a PNG."""
        (found,) = (await desk.predict(request, run, [labels])).values()
        return Response(await desk.in_thread(lambda: png(found.overlay())), media_type="image/png")

    benches = [Workbench(served) for served in runs]

    @app.get("/workbench/{number}", include_in_schema=False)
    async def workbench(number: int) -> HTMLResponse:
        """Show what the labels of a run mean together, to be corrected."""
        page = await _bench(benches, number).page(f"/workbench/{number}")
        return HTMLResponse(page, headers={"content-security-policy": WORKBENCH_POLICY})

    @app.post("/workbench/{number}", include_in_schema=False)
    async def corrected(request: Request, number: int) -> JSONResponse:
        """Keep a corrected table and decisions beside the run."""
        async with desk.body(request) as content:
            return JSONResponse({"files": await _bench(benches, number).save(content)})

    paths = [route.path for route in app.routes if isinstance(route, Route)]
    return Guard(app, names=names, token=token, rate=Rate(limits.rate), paths=paths, metrics=desk.metrics)


def _bench(benches: Sequence[Workbench], number: int) -> Workbench:
    if not 0 <= number < len(benches):
        raise RequestError(404, f"there are {len(benches)} runs here, counted from 0")
    return benches[number]
