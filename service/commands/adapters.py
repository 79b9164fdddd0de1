"""`genadapter adapters list|show|delete|export`."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.client import DEFAULT_URL, EXIT_USAGE, JsonOption, Output, UrlOption, checked, connected

if TYPE_CHECKING:
    import httpx

app = typer.Typer(no_args_is_help=True, help="List, show, delete and export adapters.")

IdArgument = Annotated[str, typer.Argument(metavar="ID")]
PAGE = 100


@app.command("list")
def list_adapters(
    url: UrlOption = DEFAULT_URL,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Your adapters, newest first."""
    output = Output(as_json)
    with connected(url, output) as client:
        found = _list(client, output, limit)
    lines = [
        f"{item['id']}  {_when(item['created_at'])}  {item['tokens']:>7} tokens  {_left(item['expires_at'])}"
        for item in found
    ]
    output.show(found, "\n".join(lines) or "no adapters")


def _list(client: httpx.Client, output: Output, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while len(found) < limit:
        page = checked(client.get("/adapters", params={"limit": min(PAGE, limit - len(found)), **after}), output).json()
        found += page["data"]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    return found


def _when(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _left(expires_at: int) -> str:
    hours = max(0.0, expires_at - time.time()) / 3600
    return f"{hours / 24:.0f} days left" if hours > 48 else f"{hours:.1f} h left"


@app.command("show")
def show_adapter(adapter_id: IdArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """All that is known of one adapter."""
    output = Output(as_json)
    with connected(url, output) as client:
        found = checked(client.get(f"/adapters/{adapter_id}"), output).json()
    output.show(found, "\n".join(f"{name:>12}  {value}" for name, value in found.items()))


@app.command("delete")
def delete_adapters(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of yours.")] = False,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Delete adapters for good."""
    output = Output(as_json)
    if bool(ids) == everything:
        output.fail("name the adapters to delete, or write --all", EXIT_USAGE)
    deleted: list[str] = []
    with connected(url, output) as client:
        while names := list(ids or []) if not everything else [item["id"] for item in _list(client, output, PAGE)]:
            for name in names:
                response = client.delete(f"/adapters/{name}")
                if not (everything and response.status_code == 404):  # expired meanwhile
                    checked(response, output)
                deleted.append(name)
            if not everything:
                break
    output.show({"deleted": deleted}, f"deleted {len(deleted)} adapter(s)")


@app.command("export")
def export_adapter(
    adapter_id: IdArgument,
    folder: Annotated[Path | None, typer.Argument(help="Where to; a folder named like the id by default.")] = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Save an adapter as a PEFT LoRA folder."""
    output = Output(as_json)
    target = folder or Path(adapter_id)
    with connected(url, output) as client:
        archive = checked(client.get(f"/adapters/{adapter_id}/peft"), output).content
    try:
        target.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            for name in files.namelist():
                (target / Path(name).name).write_bytes(files.read(name))
    except OSError as error:
        output.fail(f"{target} cannot be written: {error.strerror}", EXIT_USAGE)
    output.show({"folder": str(target)}, f"saved to {target}")
