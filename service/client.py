"""A client of a running service, for what OpenAI's API has no word for: making, growing and keeping adapters.

    with Client() as client:
        adapter = client.contextualize(files=["report.pdf"])

Asking is OpenAI's API, with the adapter's id as the model: the `openai` package does that (docs/clients.md).

`Client` waits and blocks, `AsyncClient` is awaited; they have the same methods. The address and the key come from
GENADAPTER_URL and GENADAPTER_API_KEY unless they are given. A service that is busy says when to come back (429 or 503 with
Retry-After), and is asked again then, for `patience_s` seconds in all: the same request always gives the same adapter,
so that asking again is safe.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import quote

import httpx

from service.schemas import AdapterList, AdapterOut, ContextualizeResponse, Role, Strategy
from service.settings import DEFAULT_URL

__all__ = ["AdapterOut", "ApiError", "AsyncClient", "Client", "ContextualizeResponse"]

CONNECT_S = 5.0
# Long documents on a CPU; the service's own deadline is shorter.
ANSWER_S = 900.0
PATIENCE_S = 120.0
PAGE = 100
SHORTEST_PAUSE_S = 0.1
BUSY = frozenset({429, 503})


class Message(TypedDict):
    role: Role
    content: str


class _Titled(TypedDict, total=False):
    title: str


class DocumentText(_Titled):
    text: str


# A path, or what a file is called and holds.
File = str | os.PathLike[str] | tuple[str, bytes]


class Given(TypedDict, total=False):
    """Exactly one of the first four, and options; what they mean is in docs/api.md."""

    text: str
    messages: Sequence[Message]
    documents: Sequence[DocumentText]
    files: Sequence[File]
    ttl_seconds: int
    metadata: Mapping[str, str]
    strategy: Strategy
    keep_state: bool


class ApiError(Exception):
    """The service said no, in the words of the message. `code` is for programs: "adapter_not_found", "busy", ..."""

    def __init__(self, body: Any, status: int, retry_after_s: float | None = None) -> None:
        """`body`: {"error": {"message", "code", ...}}, or whatever else came."""
        try:
            error = body["error"]
            message, self.code = str(error["message"]), error.get("code")
        except (KeyError, TypeError, AttributeError):  # a proxy's page, say
            message, self.code, body = f"the answer has status {status} and is none of this service's", None, None
        super().__init__(message)
        self.body, self.status, self.retry_after_s = body, status, retry_after_s


def unpack_peft(archive: bytes, folder: Path) -> Path:
    """Writes what GET /adapters/{id}/peft gave. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        for name in files.namelist():
            (folder / Path(name).name).write_bytes(files.read(name))
    return folder


def connection(url: str | None, api_key: str | None = None) -> dict[str, Any]:
    """The arguments of an httpx client that finds the service."""
    key = api_key or os.environ.get("GENADAPTER_API_KEY")
    return {
        "base_url": url or os.environ.get("GENADAPTER_URL") or DEFAULT_URL,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx.Timeout(ANSWER_S, connect=CONNECT_S),
        "trust_env": False,
    }


def _content(given: Given) -> dict[str, Any]:
    """The body. What is wrong with it the service says better."""
    if "files" not in given:
        return {"json": given}
    fields: dict[str, Any] = dict(given)
    parts = [("file", _part(file)) for file in fields.pop("files")]
    if "metadata" in fields:
        fields["metadata"] = json.dumps(fields["metadata"])
    if "keep_state" in fields:
        fields["keep_state"] = "true" if fields["keep_state"] else "false"
    return {"files": parts, "data": {name: str(value) for name, value in fields.items()}}


def _part(file: File) -> tuple[str, bytes]:
    return file if isinstance(file, tuple) else (Path(file).name, Path(file).read_bytes())


def _path(adapter_id: str, rest: str = "") -> str:
    return f"/adapters/{quote(adapter_id, safe='')}{rest}"


def _retry_after_s(response: httpx.Response) -> float | None:
    try:
        return float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return None


def _pause_s(response: httpx.Response, patience_s: float) -> float | None:
    """Seconds until the request is to be sent again; None: this answer is the last."""
    pause_s = _retry_after_s(response) if response.status_code in BUSY else None
    return None if pause_s is None or pause_s > patience_s else max(pause_s, SHORTEST_PAUSE_S)


def checked(response: httpx.Response) -> httpx.Response:
    """The response if all is well. Raises ApiError."""
    if not response.is_success:
        raise ApiError(_json(response.read()), response.status_code, _retry_after_s(response))
    return response


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


class Client:
    """Blocks. Raises ApiError, and httpx.HTTPError where no service answers."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        http: httpx.Client | None = None,
    ) -> None:
        """`http`: a client of your own, which then says where the service is."""
        self._http = http or httpx.Client(**connection(url, api_key))
        self._patience_s = patience_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def contextualize(self, **given: Unpack[Given]) -> ContextualizeResponse:
        """One adapter of `text`, `messages`, `documents` or `files`."""
        return ContextualizeResponse.model_validate(self._send("POST", "/contextualize", **_content(given)).json())

    def append(self, adapter_id: str, **given: Unpack[Given]) -> ContextualizeResponse:
        """A new adapter that knows more; `adapter_id` was made with `keep_state`."""
        answer = self._send("POST", _path(adapter_id, "/append"), **_content(given))
        return ContextualizeResponse.model_validate(answer.json())

    def adapters(self) -> Iterator[AdapterOut]:
        """Yours, newest first; pages are fetched as they are needed."""
        page = AdapterList(data=[], has_more=True, first_id=None, last_id=None)
        while page.has_more:
            after = {} if page.last_id is None else {"after": page.last_id}
            answer = self._send("GET", "/adapters", params={"limit": PAGE, **after})
            page = AdapterList.model_validate(answer.json())
            yield from page.data

    def get(self, adapter_id: str) -> AdapterOut:
        return AdapterOut.model_validate(self._send("GET", _path(adapter_id)).json())

    def delete(self, adapter_id: str) -> None:
        self._send("DELETE", _path(adapter_id))

    def export_peft(self, adapter_id: str, folder: str | os.PathLike[str]) -> Path:
        """The folder, which `peft.PeftModel.from_pretrained` loads."""
        return unpack_peft(self._send("GET", _path(adapter_id, "/peft")).content, Path(folder))

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        patience_s = self._patience_s
        while True:
            response = self._http.request(method, path, **content)
            pause_s = _pause_s(response, patience_s)
            if pause_s is None:
                return checked(response)
            patience_s -= pause_s
            time.sleep(pause_s)


class AsyncClient:
    """As Client, awaited."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """`http`: a client of your own, which then says where the service is."""
        self._http = http or httpx.AsyncClient(**connection(url, api_key))
        self._patience_s = patience_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def contextualize(self, **given: Unpack[Given]) -> ContextualizeResponse:
        """One adapter of `text`, `messages`, `documents` or `files`."""
        answer = await self._send("POST", "/contextualize", **_content(given))
        return ContextualizeResponse.model_validate(answer.json())

    async def append(self, adapter_id: str, **given: Unpack[Given]) -> ContextualizeResponse:
        """A new adapter that knows more; `adapter_id` was made with `keep_state`."""
        answer = await self._send("POST", _path(adapter_id, "/append"), **_content(given))
        return ContextualizeResponse.model_validate(answer.json())

    async def adapters(self) -> AsyncIterator[AdapterOut]:
        """Yours, newest first; pages are fetched as they are needed."""
        page = AdapterList(data=[], has_more=True, first_id=None, last_id=None)
        while page.has_more:
            after = {} if page.last_id is None else {"after": page.last_id}
            answer = await self._send("GET", "/adapters", params={"limit": PAGE, **after})
            page = AdapterList.model_validate(answer.json())
            for adapter in page.data:
                yield adapter

    async def get(self, adapter_id: str) -> AdapterOut:
        return AdapterOut.model_validate((await self._send("GET", _path(adapter_id))).json())

    async def delete(self, adapter_id: str) -> None:
        await self._send("DELETE", _path(adapter_id))

    async def export_peft(self, adapter_id: str, folder: str | os.PathLike[str]) -> Path:
        """The folder, which `peft.PeftModel.from_pretrained` loads."""
        answer = await self._send("GET", _path(adapter_id, "/peft"))
        return await asyncio.to_thread(unpack_peft, answer.content, Path(folder))

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        patience_s = self._patience_s
        while True:
            response = await self._http.request(method, path, **content)
            pause_s = _pause_s(response, patience_s)
            if pause_s is None:
                return checked(response)
            patience_s -= pause_s
            await asyncio.sleep(pause_s)
