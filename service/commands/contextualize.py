"""`genadapter contextualize FILE...`"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.client import DEFAULT_URL, EXIT_USAGE, JsonOption, Output, UrlOption, complete_id, connected

if TYPE_CHECKING:
    from service.schemas import ContextualizeResponse

STDIN = "-"
STDIN_NAME = "stdin.txt"


def contextualize(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Files (.txt .md .html .pdf .docx); - reads text from standard input."),
    ],
    url: UrlOption = DEFAULT_URL,
    append: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Add to what this adapter knows (it was made with --keep-state); the new adapter knows both.",
            autocompletion=complete_id,
        ),
    ] = None,
    keep_state: Annotated[
        bool | None,
        typer.Option(
            "--keep-state/--no-keep-state",
            help="Whether it can be appended to later.",
            show_default="only if it is appended to another",
        ),
    ] = None,
    ttl: Annotated[int | None, typer.Option("--ttl", help="Seconds that the adapter lives.")] = None,
    strategy: Annotated[str | None, typer.Option(help="concat, parallel or sequential.")] = None,
    metadata: Annotated[list[str] | None, typer.Option("--metadata", help="NAME=VALUE, kept with the adapter.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn files into one adapter and print its id.

    Example: genadapter contextualize report.pdf notes.md --ttl 86400

    Example: genadapter contextualize day-1.txt --keep-state

    Example: genadapter contextualize day-2.txt --append ga-3f6c1f0f8b2e4d7a9c5b1e2d3f4a5b6c
    """
    from service.client import Client

    output = Output(as_json)
    options = {"ttl_seconds": ttl, "strategy": strategy, "keep_state": keep_state}
    given: Any = {name: value for name, value in options.items() if value is not None}
    given |= {"metadata": _pairs(metadata or [], output), **_source(files, output)}
    with connected(url, output) as http, _working(f"reading {len(files)} file(s)", not as_json):
        client = Client(http=http)
        made = client.contextualize(**given) if append is None else client.append(append, **given)
    output.show(made.model_dump(), _summary(made))
    if not as_json and sys.stdout.isatty():
        command = "genadapter" if shutil.which("genadapter") else sys.argv[0]
        where = "" if url == os.environ.get("GENADAPTER_URL", DEFAULT_URL) else f" --url {url}"
        print(f"\nAsk it: {command} chat{where} {made.id}", file=sys.stderr)


def _source(files: list[str], output: Output) -> dict[str, Any]:
    """Standard input alone is a text like any other; beside files it is one of them."""
    if files == [STDIN]:
        try:
            return {"text": sys.stdin.buffer.read().decode()}
        except UnicodeDecodeError:
            output.fail("standard input is no UTF-8 text; give other files by their names", EXIT_USAGE)
    return {"files": [_part(name, output) for name in files]}


def _part(name: str, output: Output) -> tuple[str, bytes]:
    if name == STDIN:
        return STDIN_NAME, sys.stdin.buffer.read()
    try:
        return Path(name).name, Path(name).read_bytes()
    except OSError as error:
        output.fail(f"{name} cannot be read: {error.strerror}", EXIT_USAGE)


def _pairs(items: list[str], output: Output) -> dict[str, str]:
    if any("=" not in item for item in items):
        output.fail("--metadata takes NAME=VALUE", EXIT_USAGE)
    return {name: value for name, _, value in (item.partition("=") for item in items)}


def _summary(made: ContextualizeResponse) -> str:
    seconds = sum(made.timings_ms.model_dump().values()) / 1000
    how = (
        "had it already" if made.reused else f"{made.tokens} tokens in {seconds:.1f} s, {made.bytes / 1024**2:.1f} MiB"
    )
    return f"{made.id}  ({how})"


def _working(text: str, shown: bool) -> Any:
    """A spinner on a terminal, nothing elsewhere."""
    from rich.console import Console

    return Console(stderr=True, quiet=not (shown and sys.stderr.isatty())).status(text)
