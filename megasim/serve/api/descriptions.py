"""What the description of the API says of its answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from megasim.serve.formats import MEDIA_TYPES
from megasim.serve.problems import MEDIA_TYPE


class Problem(BaseModel):
    """What went wrong, after RFC 9457, and what to do about it."""

    type: str = "about:blank"
    title: str = Field(examples=["Bad Request"])
    status: int = Field(examples=[400])
    detail: str = Field(examples=["no such model: 'sd15'"])
    remedy: str | None = Field(default=None, examples=["see `megasim models`"])


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors that a request may end with, as the description has them."""
    said = {
        304: "What the client has is still so",
        400: "The question cannot be asked: an unknown model, component or metric, or bad SQL",
        401: "The token is missing or wrong",
        403: "It is not allowed: jobs are not, or the place is not one of those given",
        404: "The store has no answer to it",
        406: "None of the formats asked for is there",
        408: "The query was stopped, because it took too long",
        409: "It cannot be done in this state",
        413: "It is too large: the upload, or what the query needs",
        415: "It is not of the type that is taken",
        421: "The service is not the host that was asked for",
        422: "A parameter is unknown, or not of its type",
        503: "The service is busy",
    }
    # whatever is asked may lack a token, come from another site or for another host
    return {
        status: {"description": said[status]}
        if status == 304
        else {
            "description": said[status],
            "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
        }
        for status in sorted({401, 403, 421, 422, *statuses})
    }


def tables(description: str, example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Return a table as the description has it, in all formats that there are."""
    content: dict[str, Any] = {
        media_type: {"schema": {"type": "string", "format": "binary"}}
        for media_type in MEDIA_TYPES.values()
    }
    content[MEDIA_TYPES["csv"]] = {"schema": {"type": "string"}}
    content[MEDIA_TYPES["json"]] = {
        "schema": {
            "type": "object",
            "required": ["columns", "rows"],
            "properties": {
                "columns": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name", "type"],
                        "properties": {"name": {"type": "string"}, "type": {"type": "string"}},
                    },
                },
                "rows": {"type": "array", "items": {"type": "object"}},
                "sql": {"type": "string"},
                "next": {"type": ["string", "null"]},
                "truncated": {"type": "boolean"},
            },
        },
        "example": example,
    }
    return {200: {"description": description, "content": content}}
