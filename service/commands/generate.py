"""`genadapter generate ID PROMPT`: prints the answer as it comes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.client import (
    DEFAULT_URL,
    NO_ADAPTER,
    JsonOption,
    Output,
    UrlOption,
    complete_id,
    connected,
    printable,
)

if TYPE_CHECKING:
    import httpx

AdapterArgument = Annotated[
    str,
    typer.Argument(metavar="ID", help=f"Adapter id; '{NO_ADAPTER}' for the bare model.", autocompletion=complete_id),
]
MaxTokensOption = Annotated[int, typer.Option(min=1, help="Longest answer.")]
TemperatureOption = Annotated[
    float, typer.Option(min=0, help="0: the likeliest answer, which is the most faithful; 1: another one each time.")
]


def generate(
    adapter_id: AdapterArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The question.")],
    url: UrlOption = DEFAULT_URL,
    max_tokens: MaxTokensOption = 256,
    temperature: TemperatureOption = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as text, without the chat template.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a question with an adapter.

    Example: genadapter generate ga-3f6c1f0f8b2e4d7a9c5b1e2d3f4a5b6c "Who keeps the lighthouse?"

    Example: genadapter generate base "Write a poem on lighthouses." --temperature 1 --max-tokens 200
    """
    from service.client import checked

    output = Output(as_json)
    body = request(adapter_id, max_tokens, temperature)
    body |= {"prompt": prompt} if raw else {"messages": [{"role": "user", "content": prompt}]}
    with connected(url, output) as client:
        if as_json:
            output.show(checked(client.post("/generate", json=body)).json(), "")
            return
        for text in stream(client, body):
            print(printable(text), end="", flush=True)
    print()


def request(adapter_id: str, max_tokens: int, temperature: float) -> dict[str, Any]:
    """The body of POST /generate but for the question."""
    adapter = None if adapter_id == NO_ADAPTER else adapter_id
    return {"adapter_id": adapter, "max_tokens": max_tokens, "temperature": temperature}


def stream(client: httpx.Client, body: dict[str, Any]) -> Iterator[str]:
    """The answer's pieces as they come. Raises ApiError, also for an answer that breaks off."""
    from service.client import ApiError, checked

    with client.stream("POST", "/generate", json=body | {"stream": True}) as response:
        for line in checked(response).iter_lines():
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                return
            if data:
                event = json.loads(data)
                if "error" in event:
                    raise ApiError(event, response.status_code)
                yield from (choice["text"] for choice in event["choices"])
        raise ApiError({"error": {"message": "the answer broke off before its end: ask again"}}, response.status_code)
