"""The server: an engine behind routes, limits and keys."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool

from preface.serving.engine import Engine
from preface.serving.http import completions, labels, page, prompts
from preface.serving.http import runs as runs_of_a_folder
from preface.serving.http.access import Access
from preface.serving.http.asking import ACaller, AServing, Serving
from preface.serving.http.errors import RefusedError, add_handlers
from preface.serving.http.guard import Bounded, Known
from preface.serving.http.limits import Limits
from preface.serving.http.metrics import Measured, Metrics


def create_app(
    engine: Engine,
    access: Access | None = None,
    limits: Limits | None = None,
    runs: Path | None = None,
    local: bool = False,
) -> FastAPI:
    """An application that serves an engine, and closes it at its end: what was accepted is answered first.

    `runs`: a folder whose runs are shown; `local`: only programs of this machine may ask, and no pages of other sites.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(engine.close)

    app = FastAPIOffline(
        title="Preface",
        summary="One frozen model, any number of soft prompts",
        lifespan=lifespan,
        redoc_url=None,
        static_url="/docs/files",
    )
    access, limits = access or Access(), limits or Limits()
    app.state.serving = Serving(engine, limits, time.time(), runs)
    metrics = Metrics(engine)
    add_handlers(app)
    for module in (labels, completions, prompts, runs_of_a_folder, page):
        app.include_router(module.router)

    @app.get("/health", tags=["state"], summary="Whether the engine runs")
    def health(serving: AServing) -> dict[str, str]:
        if not serving.engine.thread.is_alive():
            raise RefusedError(503, "the engine has stopped")
        return {"status": "ok"}

    @app.get("/ready", tags=["state"], summary="Whether requests are accepted")
    def ready(serving: AServing) -> dict[str, str]:
        if serving.engine.waiting.closed:
            raise RefusedError(503, "the server is stopping")
        return {"status": "ready"}

    @app.get("/metrics", tags=["state"], summary="What was done, for Prometheus")
    def measured(caller: ACaller) -> Response:
        caller.check_all("metrics")
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    app.add_middleware(Bounded, most=limits.max_body)
    app.add_middleware(Known, access=access, local=local)
    app.add_middleware(Measured, metrics=metrics)
    return app
