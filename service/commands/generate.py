"""`genadapter generate ID PROMPT`: prints the answer as it comes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from service.commands.client import DEFAULT_URL, EXIT_REFUSED, JsonOption, Output, UrlOption, checked, connected

NO_ADAPTER = "base"


def generate(
    adapter_id: Annotated[str, typer.Argument(metavar="ID", help=f"Adapter id; '{NO_ADAPTER}' for the bare model.")],
    prompt: Annotated[str, typer.Argument(help="The question.")],
    url: UrlOption = DEFAULT_URL,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 256,
    temperature: Annotated[float | None, typer.Option(help="0: the likeliest answer.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as text, without the chat template.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a question with an adapter."""
    output = Output(as_json)
    body: dict[str, Any] = {"adapter_id": None if adapter_id == NO_ADAPTER else adapter_id, "max_tokens": max_tokens}
    body |= {"prompt": prompt} if raw else {"messages": [{"role": "user", "content": prompt}]}
    body |= {} if temperature is None else {"temperature": temperature}
    with connected(url, output) as client:
        if as_json:
            output.show(checked(client.post("/generate", json=body), output).json(), "")
            return
        with client.stream("POST", "/generate", json=body | {"stream": True}) as response:
            for text in _texts(checked(response, output).iter_lines(), output):
                print(text, end="", flush=True)
    print()


def _texts(lines: Iterator[str], output: Output) -> Iterator[str]:
    for line in lines:
        data = line.removeprefix("data: ")
        if not data or data == "[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            output.fail(event["error"]["message"], EXIT_REFUSED, event)
        yield from (choice["text"] for choice in event["choices"])
