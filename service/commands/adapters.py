"""`genadapter adapters list|show|delete|export`."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.client import DEFAULT_URL, EXIT_USAGE, JsonOption, Output, UrlOption, complete_id, connected

if TYPE_CHECKING:
    import httpx

app = typer.Typer(no_args_is_help=True, help="List, show, delete and export adapters.")

IdArgument = Annotated[str, typer.Argument(metavar="ID", autocompletion=complete_id)]
GONE = 404


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
    lines = [
        f"{item['id']}  {_when(item['created_at'])}  {item['tokens']:>7} tokens  {_left(item['expires_at'])}"
        for item in found
    ]
    output.show(found, "\n".join(lines) or "no adapters")


def _list(client: httpx.Client, limit: int | None = None) -> list[dict[str, Any]]:
    from service.client import Client

    return [item.model_dump() for item in itertools.islice(Client(http=client).adapters(), limit)]


def _when(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _left(expires_at: int) -> str:
    hours = max(0.0, expires_at - time.time()) / 3600
    return f"{hours / 24:.0f} days left" if hours > 48 else f"{hours:.1f} h left"


@app.command("show")
def show_adapter(adapter_id: IdArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """All that is known of one adapter.

    Example: genadapter adapters show ga-3f6c1f0f8b2e4d7a9c5b1e2d3f4a5b6c
    """
    from service.client import Client

    output = Output(as_json)
    with connected(url, output) as client:
        found = Client(http=client).get(adapter_id).model_dump()
    output.show(found, "\n".join(f"{name:>12}  {value}" for name, value in found.items()))


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
