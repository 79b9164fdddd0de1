"""Bytes of a request into a checked object, and what is wrong with them in words."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from service.errors import BadRequest, DeadlinePassed, GenadapterError, Unprocessable, UnsupportedType
from service.schemas import INT64

Model = TypeVar("Model", bound=BaseModel)

# A value of the right kind, but out of its range: 422. Everything else that is wrong with a body is 400.
RANGE_ERRORS = frozenset(
    {
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "too_short",
        "too_long",
        "string_too_short",
        "string_too_long",
        "finite_number",
    }
)
JSON_TYPES = ("application/json",)
# A body of the largest size comes through a slow line in this time.
BODY_S = 120.0
# Whoever reads what is passed on (the engine, its compilers of schemas) may use a stack for it.
MAX_DEPTH = 100
INT64_DIGITS = 20
# An escape that is one alone, or part of a pair.
HALF_CHARACTER = re.compile(rb"\\u[dD][89abcdefABCDEF]")


def media_type(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def require_json(content_type: str | None) -> None:
    if media_type(content_type) not in JSON_TYPES:
        raise UnsupportedType("Send JSON, with the header 'Content-Type: application/json'.")


async def read_body(request: Request) -> bytes:
    """The whole body, within a time: a client that sends a byte now and then must not hold a connection for ever."""
    try:
        async with asyncio.timeout(BODY_S):
            return await request.body()
    except TimeoutError:
        raise DeadlinePassed("the body did not come in time") from None


def parse_body(model: type[Model], body: bytes) -> Model:
    """Raises BadRequest or Unprocessable."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise explain(error.errors(include_url=False, include_context=False, include_input=False)) from None


def parse_fields(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """Raises BadRequest or Unprocessable."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise explain(error.errors(include_url=False, include_context=False, include_input=False)) from None


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object of unknown fields, for what is passed on. Raises BadRequest."""
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant, parse_int=_small_int)
    except _TooFar:
        raise BadRequest("A whole number is too large: 64 bits are taken.") from None
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    if _is_deep(value):
        raise BadRequest(f"The body is nested more than {MAX_DEPTH} deep.")
    if HALF_CHARACTER.search(body) and _has_half_characters(value):
        raise BadRequest("The body holds half of a surrogate pair, which is no character.")
    return value


def _has_half_characters(value: dict[str, Any]) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _is_deep(value: dict[str, Any]) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = [item for item in inner if isinstance(item, dict | list)]
        if not level:
            return False
    return True


class _TooFar(ValueError):
    pass


def _small_int(digits: str) -> int:
    """The engine's own messages cannot carry more than 64 bits."""
    if len(digits) > INT64_DIGITS or not -INT64 <= (value := int(digits)) < INT64:
        raise _TooFar
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def explain(errors: Sequence[Any]) -> GenadapterError:
    """The first of pydantic's errors; its parameter is the path to the field."""
    first = errors[0]
    kind, location = first["type"], [part for part in first["loc"] if _is_field(part)]
    param = ".".join(map(str, location)) or None
    if kind == "json_invalid":
        return BadRequest(f"The body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}.")
    if kind == "extra_forbidden":
        return BadRequest(f"There is no field '{param}'; /docs lists the fields.", param=param)
    if kind == "missing":
        return BadRequest(f"The field '{param}' is missing.", param=param)
    if kind == "value_error":
        return BadRequest(first["msg"].removeprefix("Value error, ").capitalize() + ".", param=param)
    message = f"{param}: {first['msg']}." if param else f"{first['msg']}."
    return (Unprocessable if kind in RANGE_ERRORS else BadRequest)(message, param=param)


def _is_field(part: int | str) -> bool:
    """Pydantic names the branch of a union in the path (`constrained-str`, `list[...]`); callers know no such field."""
    return (
        isinstance(part, int) or (part.isidentifier() and part not in {"str", "int", "float"}) or part.startswith("x-")
    )
