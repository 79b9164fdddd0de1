"""An optional application that speaks as a generative-adapter server to Doc-to-LoRA's evaluation, in front of this service.

    python -m service.doc_to_lora --url http://127.0.0.1:8000 --port 8100

    POST /generate  {"input_txt", "context_txt", "window_size"?, "max_new_tokens"?}  ->  {"output": [token ids]}
    GET  /health    {"status": "ok"}

The context is contextualized (the same one again is there already), the input is answered greedily with its adapter and
without the context. `input_txt` that holds the base model's own turn marks is a whole prompt; any other is a user's message.
`window_size` is taken and not used: the chunk size belongs to the generator's checkpoint.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from service.errors import EngineUnavailable, GenadapterError
from service.validation import explain

DEFAULT_NEW_TOKENS = 256
DEADLINE_S = 900.0
# Marks of a turn in the chat templates of Llama 2, Mistral, Llama 3, Qwen, SmolLM and Gemma.
TURN_MARKS = ("[INST]", "<|start_header_id|>", "<|im_start|>", "<start_of_turn>")


class CompatRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")

    input_txt: str = Field(min_length=1)
    context_txt: str = ""
    window_size: int | None = Field(None, ge=1)
    max_new_tokens: int = Field(DEFAULT_NEW_TOKENS, ge=1)


class _Refused(Exception):
    """The service said no: its own answer is passed on."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response


def create_app(url: str, key: str | None = None) -> FastAPI:
    """`url`: the service; `key`: its API key."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=DEADLINE_S, trust_env=False) as client:
            app.state.client = client
            yield

    app = FastAPI(title="genadapter for Doc-to-LoRA's evaluation", lifespan=lifespan)

    @app.get("/health")
    async def health(request: Request) -> dict[str, str]:
        await _ask(request.app.state.client, "GET", "/readyz")
        return {"status": "ok"}

    @app.post("/generate")
    async def generate(body: CompatRequest, request: Request) -> dict[str, list[int]]:
        client: httpx.AsyncClient = request.app.state.client
        model = None
        if body.context_txt.strip():
            model = (await _ask(client, "POST", "/contextualize", {"text": body.context_txt}))["id"]
        else:
            model = (await _ask(client, "GET", "/v1/models"))["data"][0]["id"]
        common = {"model": model, "max_tokens": body.max_new_tokens, "temperature": 0, "return_token_ids": True}
        if any(mark in body.input_txt for mark in TURN_MARKS):
            prompt = {"prompt": body.input_txt, "add_special_tokens": False}
            answer = await _ask(client, "POST", "/v1/completions", common | prompt)
        else:
            messages = [{"role": "user", "content": body.input_txt}]
            answer = await _ask(client, "POST", "/v1/chat/completions", common | {"messages": messages})
        return {"output": answer["choices"][0]["token_ids"]}

    @app.exception_handler(_Refused)
    async def refused(_: Request, error: _Refused) -> JSONResponse:
        return JSONResponse(error.response.json(), error.response.status_code)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        said = explain(error.errors())
        return JSONResponse(said.body(), said.status)

    @app.exception_handler(GenadapterError)
    async def failed(_: Request, error: GenadapterError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers())

    return app


async def _ask(client: httpx.AsyncClient, method: str, path: str, body: Any = None) -> Any:
    try:
        response = await client.request(method, path, json=body)
    except httpx.TransportError as error:
        raise EngineUnavailable("the service behind this application does not answer") from error
    if not response.is_success:
        raise _Refused(response)
    return response.json()


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the service; its key is GENADAPTER_API_KEY")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    args = parser.parse_args()
    uvicorn.run(create_app(args.url, os.environ.get("GENADAPTER_API_KEY")), host=args.host, port=args.port)


if __name__ == "__main__":
    main()
