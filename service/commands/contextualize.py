"""`genadapter contextualize FILE...`"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.client import DEFAULT_URL, EXIT_USAGE, JsonOption, Output, UrlOption, checked, connected

STDIN_NAME = "stdin.txt"


def contextualize(
    files: Annotated[
        list[str], typer.Argument(help="Files (.txt .md .html .pdf .docx); - reads text from standard input.")
    ],
    url: UrlOption = DEFAULT_URL,
    ttl: Annotated[int | None, typer.Option("--ttl", help="Seconds that the adapter lives.")] = None,
    strategy: Annotated[str | None, typer.Option(help="concat, parallel or sequential.")] = None,
    metadata: Annotated[list[str] | None, typer.Option("--metadata", help="NAME=VALUE, kept with the adapter.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn files into one adapter and print its id."""
    output = Output(as_json)
    parts = [("file", _part(name, output)) for name in files]
    fields = {"ttl_seconds": ttl, "strategy": strategy, "metadata": json.dumps(_pairs(metadata or [], output))}
    data = {name: str(value) for name, value in fields.items() if value is not None}
    with connected(url, output) as client, _working(f"reading {len(parts)} file(s)", not as_json):
        body = checked(client.post("/contextualize", files=parts, data=data), output).json()
    output.show(body, _summary(body))


def _part(name: str, output: Output) -> tuple[str, bytes]:
    if name == "-":
        return STDIN_NAME, sys.stdin.buffer.read()
    try:
        return Path(name).name, Path(name).read_bytes()
    except OSError as error:
        output.fail(f"{name} cannot be read: {error.strerror}", EXIT_USAGE)


def _pairs(items: list[str], output: Output) -> dict[str, str]:
    if any("=" not in item for item in items):
        output.fail("--metadata takes NAME=VALUE", EXIT_USAGE)
    return {name: value for name, _, value in (item.partition("=") for item in items)}


def _summary(body: dict[str, Any]) -> str:
    seconds = sum(body["timings_ms"].values()) / 1000
    how = (
        "had it already"
        if body["reused"]
        else f"{body['tokens']} tokens in {seconds:.1f} s, {body['bytes'] / 1024:.0f} KiB"
    )
    return f"{body['id']}  ({how})"


def _working(text: str, shown: bool) -> Any:
    """A spinner on a terminal, nothing elsewhere."""
    from rich.console import Console

    return Console(stderr=True, quiet=not (shown and sys.stderr.isatty())).status(text)
