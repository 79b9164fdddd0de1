"""`genadapter keys add|list|revoke`: the file of API keys. A running service reads it again within a second.

The file holds hashes only; a key is shown once, when it is made. It is replaced in one step, so that no reader ever sees
half of it, and may be read by its owner alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from service.auth import TENANT, hash_key, read_keys
from service.commands.client import EXIT_REFUSED, EXIT_USAGE, JsonOption, Output, table
from service.settings import SettingsError

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")

KEY_BYTES = 32
KEY_PREFIX = "gak-"
FILE_MODE = 0o600
COLUMNS = ("NAME", "TENANT", "MADE", "LIMITS")

FileOption = Annotated[
    Path, typer.Option("--file", envvar="GENADAPTER_API_KEYS_FILE", help="The file of keys that the service reads.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="What the key is called: a person, a program.")]
LimitOption = Annotated[int | None, typer.Option(min=1, show_default="the service's")]


@app.command("add")
def add_key(
    name: NameArgument,
    tenant: Annotated[str, typer.Option(help="Whose adapters it uses: keys of one tenant share them.")],
    file: FileOption,
    max_adapters: LimitOption = None,
    max_bytes: LimitOption = None,
    max_in_flight: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key, and show it this once.

    Example: genadapter keys add alice --tenant acme --file api-keys.json
    """
    output = Output(as_json)
    if not name.strip() or not name.isprintable() or not TENANT.fullmatch(tenant):
        output.fail("NAME must be printable, and --tenant 1 to 64 letters, digits, '.', '_' or '-'", EXIT_USAGE)
    key = KEY_PREFIX + secrets.token_hex(KEY_BYTES)
    named = {"max_adapters": max_adapters, "max_bytes": max_bytes, "max_in_flight": max_in_flight}
    entry: dict[str, Any] = {"name": name, "tenant": tenant, "sha256": hash_key(key), "created_at": int(time.time())}
    if limits := {limit: value for limit, value in named.items() if value is not None}:
        entry["limits"] = limits
    with _locked(file, output):
        entries = _read(file, output) if file.exists() else []
        if any(other.get("name") == name for other in entries):
            output.fail(f"there is a key named {name!r}: revoke it first, or choose another name", EXIT_REFUSED)
        _write(file, [*entries, entry], output)
    shown = {"key": key, **{item: value for item, value in entry.items() if item != "sha256"}}
    output.show(
        shown, f"{key}\n\nIt is shown this once. Send it as 'Authorization: Bearer KEY', or set GENADAPTER_API_KEY."
    )


@app.command("list")
def list_keys(file: FileOption, as_json: JsonOption = False) -> None:
    """Names, tenants and limits.

    Example: genadapter keys list --file api-keys.json
    """
    output = Output(as_json)
    entries = [{item: value for item, value in entry.items() if item != "sha256"} for entry in _read(file, output)]
    output.show(entries, table(COLUMNS, map(_row, entries)) if entries else "no keys: nobody can use the service")


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    made = time.strftime("%Y-%m-%d", time.localtime(entry["created_at"])) if "created_at" in entry else "?"
    limits = ", ".join(f"{limit} {value}" for limit, value in entry.get("limits", {}).items())
    return entry.get("name", "?"), entry["tenant"], made, limits or "the service's"


@app.command("revoke")
def revoke_key(name: NameArgument, file: FileOption, as_json: JsonOption = False) -> None:
    """Take a key away. Requests that it has in flight finish; what its tenant keeps stays.

    Example: genadapter keys revoke alice --file api-keys.json
    """
    output = Output(as_json)
    with _locked(file, output):
        entries = _read(file, output)
        kept = [entry for entry in entries if entry.get("name") != name]
        if len(kept) == len(entries):
            output.fail(f"there is no key named {name!r}", EXIT_REFUSED)
        _write(file, kept, output)
    output.show({"revoked": name}, f"revoked {name}; a running service takes it no more from the next second on")


@contextlib.contextmanager
def _locked(file: Path, output: Output) -> Iterator[None]:
    """One writer at a time. The folder carries the lock: the file itself is replaced."""
    try:
        descriptor = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        output.fail(f"{file.parent} cannot be opened: {error.strerror}", EXIT_USAGE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(file: Path, output: Output) -> list[dict[str, Any]]:
    """The entries as they stand in the file, which the service must be able to read too."""
    try:
        read_keys(file)
        entries: list[dict[str, Any]] = json.loads(file.read_bytes())["keys"]
    except (SettingsError, OSError) as error:
        output.fail(str(error), EXIT_USAGE)
    return entries


def _write(file: Path, entries: list[dict[str, Any]], output: Output) -> None:
    """All or nothing. The owner stays who it was: an administrator's change must not lock the service out."""
    try:
        descriptor, scratch = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(descriptor, "w") as stream:
                os.fchmod(stream.fileno(), FILE_MODE)
                if file.exists() and os.geteuid() == 0:
                    owner = file.stat()
                    os.fchown(stream.fileno(), owner.st_uid, owner.st_gid)
                json.dump({"keys": entries}, stream, indent=1)
                stream.flush()
                os.fsync(stream.fileno())
            Path(scratch).replace(file)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
    except OSError as error:
        output.fail(f"{file} cannot be written: {error.strerror}", EXIT_USAGE)
