"""The page of jobs: ask for one, watch it, cancel it, fetch what it wrote."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from megasim.errors import UsageError, printable
from megasim.serve.formats import json_text, json_value
from megasim.serve.job_kinds import Compare, Ingest, ReportJob, checked
from megasim.serve.jobs import Job
from megasim.serve.refusals import Refusal
from megasim.serve.rendering import page
from megasim.serve.service import Service, service_of

router = APIRouter()

_SHOWN = 50


@router.get("/jobs", response_class=HTMLResponse)
def jobs_page(request: Request) -> HTMLResponse:
    """Return the newest jobs, and where to ask for one."""
    service = service_of(request)
    return page(
        request,
        "jobs.html.j2",
        jobs=[_shown(job) for job in service.jobs.newest(_SHOWN)],
        may_ask=_may_ask(request, service),
        folders=[printable(folder, 400) for folder in service.settings.models],
    )


@router.post("/jobs")
def ask_for_job(
    request: Request,
    kind: Annotated[str, Form()],
    paths: Annotated[str, Form(max_length=100_000)] = "",
    models: Annotated[str, Form(max_length=100_000)] = "",
    estimate: Annotated[bool, Form()] = False,
) -> Response:
    """Put a job at the end of the queue, and go to the list."""
    service = _allowed(request)
    chosen = _lines(models) or None
    asked: Ingest | Compare | ReportJob
    if kind == "ingest":
        asked = Ingest(kind="ingest", paths=_lines(paths))
    elif kind == "compare":
        asked = Compare(kind="compare", models=chosen, estimate=estimate)
    elif kind == "report":
        asked = ReportJob(kind="report", models=chosen)
    else:
        raise UsageError(
            f"{printable(kind, 80)!r} is not asked for here", "use ingest, compare or report"
        )
    arguments = checked(asked, service.settings, is_owner=bool(request.state.is_owner))
    service.jobs.ask(asked.kind, arguments)
    return RedirectResponse("/jobs", 303)


@router.post("/jobs/{job_id}/cancel")
def cancel_job(request: Request, job_id: int) -> Response:
    """Let a job end; what it has done is kept."""
    _allowed(request).jobs.cancel(job_id)
    return RedirectResponse("/jobs", 303)


def _may_ask(request: Request, service: Service) -> bool:
    return bool(service.settings.allow_jobs or request.state.is_owner)


def _allowed(request: Request) -> Service:
    service = service_of(request)
    if not _may_ask(request, service):
        raise Refusal(403, "this service only reads", "start it with --allow-jobs")
    return service


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _shown(job: Job) -> dict[str, Any]:
    """Return a job as the page shows it: what was asked, and what came of it, as short text."""
    asked = {name: value for name, value in job.arguments.items() if value not in (None, [], {})}
    result = {
        name: len(value) if isinstance(value, list) else value
        for name, value in (job.result or {}).items()
        if value not in (None, [], {}, "")
    }
    return {
        **job.to_json(),
        "is_over": job.state.is_over,
        "asked": json_text(json_value(asked)),
        "came": json_text(json_value(result)) if result else "",
        "has_report": job.kind == "report" and str(job.state) == "done",
    }
