"""Jobs: asked for, watched as they go, cancelled; and what they wrote."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from megasim.serve.api.descriptions import problems
from megasim.serve.formats import MEDIA_TYPES, json_text, json_value
from megasim.serve.job_kinds import Asked, checked
from megasim.serve.jobs import Job
from megasim.serve.refusals import Refusal
from megasim.serve.service import Service, service_of

router = APIRouter(prefix="/api/v1", tags=["jobs"])

_LOOK_SECONDS = 0.25  # between two looks at a job that is watched
_ALIVE_SECONDS = 15.0  # after so long without news a line says that the connection is alive
_EXAMPLE = {
    "id": 1,
    "kind": "ingest",
    "arguments": {"paths": ["/models/sd15.safetensors"]},
    "state": "running",
    "progress": {
        "title": "Ingesting",
        "unit": "bytes",
        "done": 1_000_000_000,
        "total": 4_000_000_000,
        "rate": 1.5e9,
        "seconds_left": 2.0,
    },
}
JobId = Annotated[int, PathParameter(ge=1, le=2**31 - 1)]


def _described(description: str, example: Any, status: int = 200) -> dict[int | str, Any]:
    content = {"application/json": {"example": example}}
    return {status: {"description": description, "content": content}}


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = json_text(json_value(value)) + "\n"
    return Response(text, status, headers, "application/json")


def _require_jobs(request: Request) -> tuple[Service, bool]:
    """Return the service and whether its owner asks.

    Raises:
        Refusal: who asks may only read.
    """
    service = service_of(request)
    is_owner = bool(request.state.is_owner)
    if not (service.settings.allow_jobs or is_owner):
        raise Refusal(403, "this service only reads", "start it with --allow-jobs")
    return service, is_owner


@router.post(
    "/jobs",
    status_code=201,
    summary="Put a job at the end of the queue",
    responses=_described("The job", _EXAMPLE, 201) | problems(400, 404, 503),
    response_class=Response,
)
def ask(
    request: Request,
    asked: Annotated[
        Asked, Body(openapi_examples={"ingest": {"value": {"kind": "ingest", "paths": ["."]}}})
    ],
) -> Response:
    """Ask for a job: `ingest`, `compare`, `import` or `report`."""
    service, is_owner = _require_jobs(request)
    arguments = checked(asked, service.settings, is_owner=is_owner)
    job = service.jobs.ask(asked.kind, arguments)
    return _json(job.to_json(), 201, {"location": f"/api/v1/jobs/{job.id}"})


@router.get(
    "/jobs",
    summary="The newest jobs",
    responses=_described("The newest first", {"jobs": [_EXAMPLE], "states": {"running": 1}})
    | problems(),
    response_class=Response,
)
def newest(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:
    """Return the newest jobs, and how many there are of each state."""
    jobs = service_of(request).jobs
    found = [job.to_json() for job in jobs.newest(limit)]
    return _json({"jobs": found, "states": jobs.counts()})


@router.get(
    "/jobs/{job_id}",
    summary="A job, and how far it is",
    responses=_described("The job", _EXAMPLE) | problems(404),
    response_class=Response,
)
def one(request: Request, job_id: JobId) -> Response:
    """Return a job: its state, its progress while it runs, its result once it is done."""
    return _json(service_of(request).jobs.job(job_id).to_json())


@router.delete(
    "/jobs/{job_id}",
    status_code=202,
    summary="Cancel a job; what it has done is kept",
    responses=_described("The job, which ends soon", _EXAMPLE, 202) | problems(404, 409),
    response_class=Response,
)
def cancel(request: Request, job_id: JobId) -> Response:
    """Let a job end: at once if it waits, else as soon as what is under way is saved."""
    service, _ = _require_jobs(request)
    return _json(service.jobs.cancel(job_id).to_json(), 202)


# OpenAPI before 3.2 has the schema of an event stream describe each event.
_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"const": "job"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}


@router.get(
    "/jobs/{job_id}/events",
    summary="What happens to a job, as server-sent events",
    responses={
        200: {
            "description": "An event `job` with the job whenever it changes, until it is over",
            "content": {"text/event-stream": {"schema": _EVENT}},
        },
        **problems(404),
    },
    response_class=Response,
)
async def events(request: Request, job_id: JobId) -> Response:
    """Tell what happens to a job as it happens."""
    service = service_of(request)
    await run_in_threadpool(service.jobs.job, job_id)
    return StreamingResponse(_events(service, job_id), media_type="text/event-stream")


async def _events(service: Service, job_id: int) -> AsyncIterator[str]:
    told, silent = "", 0.0
    while not service.is_ending:
        job: Job = await run_in_threadpool(service.jobs.job, job_id)
        text = json_text(json_value(job.to_json()))
        if text != told:
            told, silent = text, 0.0
            yield f"event: job\ndata: {text}\n\n"
        if job.state.is_over:
            return
        await asyncio.sleep(_LOOK_SECONDS)
        silent += _LOOK_SECONDS
        if silent >= _ALIVE_SECONDS:
            silent = 0.0
            yield ": still there\n\n"


@router.get(
    "/jobs/{job_id}/report",
    summary="The page that a report wrote",
    responses={
        200: {"description": "One page", "content": {"text/html": {"schema": {"type": "string"}}}},
        **problems(404),
    },
    response_class=Response,
)
def report(request: Request, job_id: JobId) -> Response:
    """Return the page that a job of the kind `report` wrote, to be kept as a file."""
    jobs = service_of(request).jobs
    jobs.job(job_id)
    page = jobs.folder_of(job_id) / "report.html"
    if not page.is_file():
        raise Refusal(404, f"job {job_id} wrote no report", "ask for one of the kind `report`")
    return FileResponse(page, media_type="text/html", filename=f"report-{job_id}.html")


@router.post(
    "/fingerprints",
    status_code=201,
    summary="Import a file of fingerprints",
    responses=_described("The job that imports it", _EXAMPLE, 201) | problems(400, 413, 415, 503),
    response_class=Response,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {MEDIA_TYPES["parquet"]: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload(request: Request) -> Response:
    """Take a file that `megasim export --fingerprints` wrote, and import it as a job.

    It holds no weights. Checkpoints are not uploaded: they are ingested by path.
    """
    service, _ = _require_jobs(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != MEDIA_TYPES["parquet"]:
        raise Refusal(
            415, "this is not called a Parquet file", f"send it as {MEDIA_TYPES['parquet']}"
        )
    folder = service.settings.job_folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "fingerprints.parquet"
        await _save(request, path, service.settings.upload_bytes)
        job = await run_in_threadpool(service.jobs.ask, "import", {}, path)
    return _json(job.to_json(), 201, {"location": f"/api/v1/jobs/{job.id}"})


async def _save(request: Request, path: Path, most: int) -> None:
    """Write the body of a request to a file.

    Raises:
        Refusal: it is too large, or no Parquet file by its first bytes.
    """
    size = 0
    begin = b""
    with path.open("wb") as file:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise Refusal(413, f"the file has more than {most:,} bytes", "export fewer models")
            if len(begin) < 4:
                begin += part[:4]
            await run_in_threadpool(file.write, part)
    if begin[:4] != b"PAR1":
        raise Refusal(
            400, "this is no Parquet file", "send one that `megasim export --fingerprints` wrote"
        )
