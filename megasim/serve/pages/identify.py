"""The page that answers: have I this file already, under which name, in which part?

A safetensors file is hashed in the browser, and only its hashes are sent. A fingerprint file is
sent as it is. A path is read here, if it lies below a folder that the service was given.
"""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from megasim.anatomy.classification import component_title
from megasim.checkpoint.dtypes import SAFETENSORS_DTYPES
from megasim.checkpoint.opening import open_checkpoint
from megasim.errors import UsageError, printable
from megasim.serve.dependencies import ReadStore
from megasim.serve.formats import json_text
from megasim.serve.job_kinds import place_of
from megasim.serve.pages.addresses import model_address
from megasim.serve.refusals import Refusal
from megasim.serve.rendering import page
from megasim.serve.service import service_of
from megasim.wording.sentences import counted, joined, listed
from megasim.workspace import Workspace

router = APIRouter()

_MOST_CONTENTS = 200_000  # tensors of a file
_MOST_ROWS = 5_000_000  # of a fingerprint file
_MOST_BYTES = 256 << 20  # of a fingerprint file
_MOST_NAMED = 8
_HASH = re.compile(r"[0-9a-f]{64}")

Hash = Annotated[str, Field(pattern=f"^{_HASH.pattern}$")]


class HashedFile(BaseModel):
    """What a browser found out about a file: its identity, and the hashes of its tensors."""

    identity: Hash | None = None
    contents: Annotated[list[Hash], Field(max_length=_MOST_CONTENTS)] = []


@router.get("/identify", response_class=HTMLResponse)
def identify_page(
    request: Request, store: ReadStore, path: Annotated[str, Query(max_length=4096)] = ""
) -> HTMLResponse:
    """Return a place to drop a file, and what is known of a path."""
    answer = None
    if path:
        place = place_of(path, service_of(request).settings, bool(request.state.is_owner))
        answer = _of_path(store, Path(place))
    return page(
        request,
        "identify.html.j2",
        path=path,
        answer=answer,
        dtypes=json.dumps(SAFETENSORS_DTYPES),
        folders=bool(service_of(request).settings.models),
    )


def _of_path(store: Workspace, path: Path) -> dict[str, Any]:
    identity = open_checkpoint(path).identity.header_hash
    found = _answer(store, HashedFile(identity=identity))
    if not found["sentences"]:
        found["sentences"] = [
            f"No model of the store is {printable(path.name, 200)}. It may hold components of "
            "some: ingest it to know, or drop it above."
        ]
    return found


@router.post("/identify/contents")
def identify_contents(store: ReadStore, asked: Annotated[HashedFile, Body()]) -> Response:
    """Return which models hold what a file holds."""
    return Response(json_text(_answer(store, asked)), media_type="application/json")


@router.post("/identify/fingerprints")
async def identify_fingerprints(request: Request, store: ReadStore) -> Response:
    """Return which models hold what the models of a fingerprint file hold."""
    most = min(service_of(request).settings.upload_bytes, _MOST_BYTES)
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > most:
            raise Refusal(413, f"the file is larger than {most:,} bytes", "import it as a job")

    def answers() -> str:
        found = [
            {"title": printable(name, 200), **_answer(store, HashedFile(contents=contents))}
            for name, contents in _contents_of_file(bytes(content))
        ]
        return json_text({"models": found})

    return Response(await run_in_threadpool(answers), media_type="application/json")


def _contents_of_file(content: bytes) -> Iterator[tuple[str, list[str]]]:
    """Yield each model of a fingerprint file with the hashes of its tensors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    refused = UsageError(
        "the file is not one of fingerprints", "write one with `megasim export --fingerprints`"
    )
    try:
        with pq.ParquetFile(io.BytesIO(content)) as file:
            is_one = b"megasim_fingerprints" in (file.metadata.metadata or {})
            if not is_one or file.metadata.num_rows > _MOST_ROWS:
                raise refused
            held: dict[str, list[str]] = defaultdict(list)
            columns = ["model", "content_hash"]
            for batch in file.iter_batches(65_536, columns=columns):
                rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                for model, content_hash in rows:
                    if isinstance(content_hash, str) and _HASH.fullmatch(content_hash):
                        held[str(model)].append(content_hash)
    except (pa.ArrowException, OSError, ValueError, KeyError):
        raise refused from None
    for model, contents in held.items():
        yield model, contents[:_MOST_CONTENTS]


def _answer(store: Workspace, asked: HashedFile) -> dict[str, Any]:
    """Return sentences, and a row for each component that holds some of the contents."""
    sentences = []
    if asked.identity:
        names = [name for (name,) in store.store.rows("models_of_file", identity=asked.identity)]
        if names:
            sentences.append(
                f"This file is here as {listed(names, _MOST_NAMED)}: the same header, size and "
                "16 samples of its bytes."
            )
    rows: list[dict[str, Any]] = []
    if asked.contents:
        rows = store.store.frame("holders_of_contents", contents=asked.contents).to_dict("records")  # type: ignore[assignment]
        ((known,),) = store.store.rows("known_contents", contents=asked.contents)
        sentences += _sentences(rows, len(set(asked.contents)), known)
    return {
        "sentences": sentences,
        "rows": [
            {**row, "title": component_title(row["component"]), "href": model_address(row["model"])}
            for row in rows[:200]
        ],
    }


def _sentences(rows: Sequence[dict[str, Any]], asked: int, known: int) -> list[str]:
    if not known:
        return [f"None of its {counted(asked, 'different tensor')} is in the store."]
    said = [f"{known:,} of its {counted(asked, 'different tensor')} are in the store."]
    whole: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row["held"] == row["keys"]:
            whole[component_title(row["component"])].append(row["model"])
    for title, models in whole.items():
        what = f"{title[:1].upper()}{title[1:]}"
        said.append(f"{what}: all that {joined_models(models)} in it is in the file.")
    if not whole:
        said.append("No component of a model is in it as a whole.")
    return said


def joined_models(models: Sequence[str]) -> str:
    """Return who holds something, as the subject of a sentence.

    >>> joined_models(["a"]), joined_models(["a", "b"])
    ('a has', 'a and b have')
    """
    names = [printable(name, 80) for name in models[:_MOST_NAMED]]
    more = len(models) - len(names)
    parts = [*names, f"{more:,} more"] if more else names
    return f"{joined(parts)} {'has' if len(models) == 1 else 'have'}"
