"""What a request brings to be read: JSON with a text, a conversation or documents, or files. One text comes of it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.disconnect import while_connected
from service.errors import BadRequest, TooLarge, Unprocessable, UnsupportedType
from service.prompts import Document, conversation_text, documents_text
from service.schemas import ContextualizeOptions, ContextualizeRequest
from service.services import Services
from service.validation import JSON_TYPES, media_type, parse_body, parse_fields

FIELDS = frozenset(ContextualizeOptions.model_fields)
MAX_FIELD_BYTES = 64 * 1024
# The last boundary's two dashes, a line break, and some white space that clients add.
END_BYTES = 16


async def read_source(request: Request, services: Services) -> tuple[str, ContextualizeOptions]:
    """The text and the options. Raises BadRequest, TooLarge, UnsupportedType, Unprocessable."""
    kind = media_type(request.headers.get("content-type"))
    if kind == "multipart/form-data":
        return await _read_files(request, services)
    if kind not in JSON_TYPES:
        raise UnsupportedType(
            "Send JSON ('Content-Type: application/json') or files ('multipart/form-data', with parts named 'file')."
        )
    wanted = parse_body(ContextualizeRequest, await request.body())
    text, param = _text_of(wanted)
    if not text.strip():
        raise Unprocessable(f"The {param} holds no text.", param=param)
    return text, wanted


def _text_of(wanted: ContextualizeRequest) -> tuple[str, str]:
    if wanted.messages is not None:
        if not any(message.content.strip() for message in wanted.messages):
            return "", "messages"
        return conversation_text([(message.role, message.content) for message in wanted.messages]), "messages"
    if wanted.documents is not None:
        for index, document in enumerate(wanted.documents):
            if not document.text.strip():
                return "", f"documents.{index}.text"
        return documents_text([Document(document.text, document.title) for document in wanted.documents]), "documents"
    return wanted.text or "", "text"


async def _read_files(request: Request, services: Services) -> tuple[str, ContextualizeOptions]:
    async with _open_form(request, services.settings.max_files) as form:
        files = [value for name, value in form.multi_items() if isinstance(value, UploadFile) and name == "file"]
        _check_parts(form.multi_items(), len(files), services.settings.max_files)
        options = parse_fields(ContextualizeOptions, _fields({name: form[name] for name in FIELDS if name in form}))
        # A parser is not kept busy for one who has left.
        return documents_text(await while_connected(request, _parsed(files, services))), options


async def _parsed(files: list[UploadFile], services: Services) -> list[Document]:
    return [await services.parser.parse(file.filename or "", await file.read()) for file in files]


@asynccontextmanager
async def _open_form(request: Request, max_files: int) -> AsyncIterator[FormData]:
    """The parts of a whole multipart body; long files lie on disk meanwhile. Raises BadRequest, TooLarge."""
    end = b""

    async def chunks() -> AsyncGenerator[bytes, None]:
        nonlocal end
        async for chunk in request.stream():
            end = (end + chunk)[-END_BYTES:]
            yield chunk

    limits = {"max_files": max_files + 1, "max_fields": len(FIELDS) + 1, "max_part_size": MAX_FIELD_BYTES}
    parser = MultiPartParser(request.headers, chunks(), **limits)
    try:
        form = await parser.parse()
        if not end.rstrip().endswith(b"--"):  # the parser would leave out what was cut off, and say nothing
            raise MultiPartException("the last boundary is missing")
        yield form
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(max_files) from None
        raise BadRequest("The multipart body cannot be read: check its boundary, and that it is whole.") from None
    finally:
        for file in getattr(parser, "_files_to_close_on_error", ()):
            file.close()


def _check_parts(items: list[tuple[str, Any]], files: int, limit: int) -> None:
    for name, value in items:
        if isinstance(value, UploadFile) != (name == "file"):
            raise BadRequest(
                f"'{name[:64]}' is no part that is taken this way: send files as 'file', options as plain fields.",
                param=name[:64],
            )
        if name != "file" and name not in FIELDS:
            raise BadRequest(f"There is no field '{name[:64]}'; /docs lists the fields.", param=name[:64])
    if files == 0:
        raise BadRequest("Send at least one part named 'file', with a file name.", param="file")
    if files > limit:
        raise _too_many(limit)


def _too_many(limit: int) -> TooLarge:
    return TooLarge(f"At most {limit} files are taken in one request.", param="file")


def _fields(form: dict[str, Any]) -> dict[str, Any]:
    """Form fields are all strings; the options have types."""
    fields = dict(form)
    if "ttl_seconds" in fields:
        try:
            fields["ttl_seconds"] = int(fields["ttl_seconds"])
        except ValueError:
            raise BadRequest("ttl_seconds: a whole number of seconds is needed.", param="ttl_seconds") from None
    if "keep_state" in fields:
        if fields["keep_state"] not in ("true", "false"):
            raise BadRequest("keep_state: 'true' or 'false' is needed.", param="keep_state")
        fields["keep_state"] = fields["keep_state"] == "true"
    if "metadata" in fields:
        try:
            fields["metadata"] = json.loads(fields["metadata"])
        except (ValueError, RecursionError):
            raise BadRequest("metadata: a JSON object of strings is needed.", param="metadata") from None
    return fields
