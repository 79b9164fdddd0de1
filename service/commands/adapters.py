"""`genadapter adapters list|show|delete|export`."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.client import (
    DEFAULT_URL,
    EXIT_USAGE,
    JsonOption,
    Output,
    UrlOption,
    complete_id,
    connected,
    printable,
    table,
)

if TYPE_CHECKING:
    import httpx

app = typer.Typer(no_args_is_help=True, help="List, show, delete and export adapters.")

IdArgument = Annotated[str, typer.Argument(metavar="ID", autocompletion=complete_id)]
GONE = 404
COLUMNS = ("ID", "MADE", "TOKENS", "SIZE", "EXPIRES", "CAN GROW", "METADATA")
NONE_YET = "no adapters yet: `genadapter contextualize FILE` makes one"


@app.command("list")
def list_adapters(
    url: UrlOption = DEFAULT_URL,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Your adapters, newest first.

    Example: genadapter adapters list --limit 5
    """
    output = Output(as_json)
    with connected(url, output) as client:
        found = _list(client, limit)
    output.show(found, table(COLUMNS, map(_row, found)) if found else NONE_YET)


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    grows = item["state_expires_at"]
    return (
        item["id"],
        _when(item["created_at"]),
        str(item["tokens"]),
        _size(item["bytes"]),
        f"in {_left(item['expires_at'])}",
        "no" if grows is None else f"for {_left(grows)}",
        _noted(item["metadata"]),
    )


def _list(client: httpx.Client, limit: int | None = None) -> list[dict[str, Any]]:
    from service.client import Client

    return [item.model_dump() for item in itertools.islice(Client(http=client).adapters(), limit)]


def _when(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _left(end: int) -> str:
    hours = max(0.0, end - time.time()) / 3600
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours / 24:.0f} days" if hours > 48 else f"{hours:.0f} h"


def _size(count: int) -> str:
    return f"{count / 1024**2:.1f} MiB"


def _noted(metadata: dict[str, str]) -> str:
    return printable(" ".join(f"{name}={value}" for name, value in metadata.items())).replace("\n", " ")


@app.command("show")
def show_adapter(adapter_id: IdArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """All that is known of one adapter.

    Example: genadapter adapters show ga-3f6c1f0f8b2e4d7a9c5b1e2d3f4a5b6c
    """
    from service.client import Client

    output = Output(as_json)
    with connected(url, output) as client:
        found = Client(http=client).get(adapter_id).model_dump()
    output.show(found, "\n".join(f"{name:<10}  {value}" for name, value in _described(found).items()))


def _described(item: dict[str, Any]) -> dict[str, str]:
    grows = item["state_expires_at"]
    return {
        "id": item["id"],
        "base model": item["base_model"],
        "generator": item["generator"],
        "made": _when(item["created_at"]),
        "expires": f"{_when(item['expires_at'])}, in {_left(item['expires_at'])}",
        "can grow": "no: it was made without --keep-state" if grows is None else f"until {_when(grows)}",
        "grown from": item["parent"] or "-",
        "read": f"{item['tokens']} tokens in {item['chunks']} chunk(s), {item['strategy']}",
        "size": f"{_size(item['bytes'])}, rank {item['rank']}",
        "metadata": _noted(item["metadata"]) or "-",
    }


@app.command("delete")
def delete_adapters(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", autocompletion=complete_id)] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of yours.")] = False,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Delete adapters for good.

    Example: genadapter adapters delete ga-3f6c1f0f8b2e4d7a9c5b1e2d3f4a5b6c
    """
    from service.client import ApiError, Client

    output = Output(as_json)
    if bool(ids) == everything:
        output.fail("name the adapters to delete, or write --all", EXIT_USAGE)
    deleted: list[str] = []
    with connected(url, output) as client:
        for name in ids or [item["id"] for item in _list(client)]:
            try:
                Client(http=client).delete(name)
            except ApiError as error:
                if not everything or error.status != GONE:  # expired meanwhile
                    raise
            deleted.append(name)
    output.show({"deleted": deleted}, f"deleted {len(deleted)} adapter(s)")


@app.command("export")
def export_adapter(
    adapter_id: IdArgument,
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Where to; a folder named like the id by default.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Save an adapter as a PEFT LoRA folder.

    Example: genadapter adapters export ga-3f6c1f0f8b2e4d7a9c5b1e2d3f4a5b6c my-adapter
    """
    from service.client import Client

    output = Output(as_json)
    target = folder or Path(adapter_id)
    try:
        with connected(url, output) as client:
            Client(http=client).export_peft(adapter_id, target)
    except OSError as error:
        output.fail(f"{target} cannot be written: {error.strerror}", EXIT_USAGE)
    output.show({"folder": str(target)}, f"saved to {target}")
