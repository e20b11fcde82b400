"""The application: its pages, its API, and what becomes of an error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import duckdb
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from megasim.errors import MegasimError, printable
from megasim.resources import package_path
from megasim.serve.answer_cache import AnswerCache, AnswersApart
from megasim.serve.api import ROUTERS, answers
from megasim.serve.dependencies import only_described
from megasim.serve.metrics import MEDIA_TYPE, Metrics
from megasim.serve.pages import PAGES, routers
from megasim.serve.problems import problem
from megasim.serve.refusals import NotModified, Refusal, as_megasim_error
from megasim.serve.security import Security
from megasim.serve.service import Answering, Service
from megasim.serve.settings import Settings
from megasim.store.owner import StoreOwner


def create_app(settings: Settings) -> FastAPI:
    """Open a store and return the application that serves it; it closes the store at its end.

    Raises:
        MegasimError: the store cannot be opened. See `connect`.
    """
    owner = StoreOwner(settings.store, memory=settings.memory, uploads=settings.job_folder)
    return app_of(Service(settings, owner))


def app_of(service: Service, apart: AnswersApart | None = None) -> FastAPI:
    """Return the application of a service that is open already.

    Args:
        apart: processes that make pages and answers; all is made in this one when None.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.jobs.start()
        try:
            yield
        finally:
            if apart is not None:
                await run_in_threadpool(apart.close)
            await run_in_threadpool(service.close)

    app = _application(service, lifespan)
    for router in routers(apart=None if apart is None else False):
        app.include_router(router, include_in_schema=False)
    for api in ROUTERS:
        app.include_router(api, dependencies=[Depends(only_described)])
    app.get("/", include_in_schema=False)(_first_page)
    app.get("/healthz", include_in_schema=False)(_health)
    app.mount("/static", StaticFiles(directory=package_path("serve", "static")), "static")
    metrics = Metrics(service)

    @app.get("/metrics", include_in_schema=False)
    def show_metrics() -> Response:
        """Return the metrics as Prometheus reads them, to who has the token."""
        return Response(metrics.text(), media_type=MEDIA_TYPE)

    app.add_middleware(AnswerCache, service=service, apart=apart)
    app.add_middleware(Security, service=service, metrics=metrics)
    return app


def app_apart(answering: Answering) -> FastAPI:
    """Return the application of a process that makes answers, which asks who may ask no more."""
    app = _application(answering)
    for router in routers(apart=True):
        app.include_router(router, include_in_schema=False)
    app.include_router(answers.router, dependencies=[Depends(only_described)])
    return app


def _application(answering: Answering, lifespan: Any = None) -> FastAPI:
    app = FastAPI(
        title="megasim",
        version=answering.version,
        summary="What changed between these checkpoints, and where did each come from?",
        lifespan=lifespan,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # these pages load scripts of other hosts
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = answering
    answering.navigation = [(page.path, page.title) for page in PAGES if page.title]
    app.add_exception_handler(NotModified, _not_modified)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(MegasimError, _known_error)
    app.add_exception_handler(duckdb.Error, _known_error)
    return app


def _first_page() -> Response:
    return RedirectResponse(PAGES[0].path, 303)


def _health() -> Response:
    """Say that the service answers; nothing of what it holds."""
    return PlainTextResponse("ok\n")


def _not_modified(request: Request, error: Exception) -> Response:
    assert isinstance(error, NotModified)
    return Response(status_code=304, headers={"etag": error.etag})


def _known_error(request: Request, error: Exception) -> Response:
    return problem(request, as_megasim_error(error))


def _not_valid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [
        f"{'.'.join(printable(part, 80) for part in fault['loc'][1:])}: {fault['msg']}"
        for fault in error.errors()[:5]
    ]
    what = "; ".join(printable(fault, 300) for fault in faults)
    return problem(request, Refusal(422, what, "see /api/v1/openapi.json"))


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    remedies = {404: "begin at /", 405: "see /api/v1/openapi.json"}
    what = {404: f"nothing is at {printable(request.scope['path'], 300)}"}
    text = what.get(error.status_code, str(error.detail))
    remedy = remedies.get(error.status_code, "")
    headers = dict(error.headers or {})
    return problem(request, Refusal(error.status_code, text, remedy, headers=headers))
