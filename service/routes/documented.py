"""What OpenAPI says of errors and of bodies that the handlers read themselves."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from service.errors import (
    AdapterMismatch,
    AdapterNotFound,
    BadRequest,
    Busy,
    DeadlinePassed,
    EngineUnavailable,
    GenadapterError,
    StoreUnavailable,
    TooLarge,
    Unauthorized,
    Unprocessable,
    UnsupportedType,
)
from service.schemas import ErrorBody

READS: tuple[type[GenadapterError], ...] = (Unauthorized, StoreUnavailable)
OF_ADAPTER = (*READS, AdapterNotFound)
OF_BODY = (BadRequest, TooLarge, UnsupportedType, Unprocessable)
CREATES = (*READS, *OF_BODY, Busy, DeadlinePassed)
COMPLETES = (Unauthorized, AdapterNotFound, AdapterMismatch, *OF_BODY, Busy, EngineUnavailable, DeadlinePassed)

MULTIPART_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": ".txt .md .html .pdf .docx",
        },
        "ttl_seconds": {"type": "integer", "minimum": 1},
        "metadata": {"type": "string", "description": "A JSON object of strings"},
        "strategy": {"type": "string", "enum": ["concat", "parallel", "sequential"]},
        "keep_state": {"type": "boolean"},
    },
}


Responses = dict[int | str, dict[str, Any]]


def error_responses(*errors: type[GenadapterError]) -> Responses:
    """Each error with its own words as the example."""
    found: Responses = {}
    for error in errors:
        content = {"application/json": {"example": error().body()}}
        found[error.status] = {"model": ErrorBody, "description": error.public, "content": content}
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def or_events(*errors: type[GenadapterError]) -> Responses:
    """Of a route that streams when it is asked to."""
    events = {"example": "data: {...}\n\ndata: [DONE]\n\n"}
    answer: dict[str, Any] = {"description": "Whole, or with `stream: true` as server-sent events"}
    return {200: answer | {"content": {"text/event-stream": events}}, **error_responses(*errors)}


def json_body(model: type[BaseModel], *, multipart: bool = False) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself. `app` adds the model's schema to the components."""
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    if multipart:
        content["multipart/form-data"] = {"schema": MULTIPART_SCHEMA}
    return {"requestBody": {"required": True, "content": content}}


def free_body(required: list[str], example: dict[str, Any]) -> dict[str, Any]:
    """A body of OpenAI's API: a few fields are looked at, all are passed on."""
    schema = {"type": "object", "required": required, "additionalProperties": True}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}
