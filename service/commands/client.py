"""What the commands that talk to a running service share: the connection, errors in words, exit codes, two forms of
output."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from service.settings import DEFAULT_URL as DEFAULT_URL

if TYPE_CHECKING:
    import httpx

    from service.client import ApiError

EXIT_REFUSED, EXIT_USAGE, EXIT_UNREACHABLE = 1, 2, 3
EXIT_CODES = (
    "Exit codes: 0 done; 1 the service, or what was asked for, says no; 2 the command was used wrongly; "
    "3 no service answers."
)
NO_ADAPTER = "base"
# A shell that completes a word waits for it.
COMPLETION_S = 1.0
COMPLETION_IDS = 50
NUMBER = re.compile(r"[\d.]+( \w+)?")

UrlOption = Annotated[
    str,
    typer.Option("--url", envvar="GENADAPTER_URL", help="Where the service listens; the key is GENADAPTER_API_KEY."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@dataclass(frozen=True)
class Output:
    """Prints for people, or one JSON value for machines."""

    as_json: bool

    def show(self, value: Any, text: str) -> None:
        print(json.dumps(value, ensure_ascii=False) if self.as_json else text)

    def fail(self, message: str, code: int, error: Any = None) -> NoReturn:
        if self.as_json:
            print(json.dumps(error or {"error": {"message": message}}, ensure_ascii=False))
        else:
            print(f"genadapter: {message}", file=sys.stderr)
        raise typer.Exit(code)


@contextlib.contextmanager
def connected(url: str, output: Output) -> Iterator[httpx.Client]:
    """A client of the service; what goes wrong (ApiError included) becomes one line and an exit code. The key comes from
    GENADAPTER_API_KEY."""
    import httpx

    from service.client import ApiError, connection

    try:
        with httpx.Client(**connection(url)) as client:
            yield client
    except ApiError as error:
        output.fail(in_words(error), EXIT_REFUSED, error.body)
    except httpx.ConnectError:
        output.fail(f"no service answers at {url}: start one with `genadapter serve`, or set --url", EXIT_UNREACHABLE)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        output.fail(f"the connection to {url} failed: {error or type(error).__name__}", EXIT_UNREACHABLE)


def in_words(error: ApiError) -> str:
    """With the time after which it may go better, where the service names one."""
    if error.retry_after_s is None:
        return str(error)
    wait = f"in {error.retry_after_s:.0f} s."
    return f"{str(error).rstrip('.')}, {wait}" if "try again" in str(error).lower() else f"{error} Try again {wait}"


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Columns as wide as they must be; numbers to the right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [all(NUMBER.fullmatch(row[number]) for row in lines[1:]) for number in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def printable(text: str) -> str:
    """Without what a terminal would take as orders: a model writes whatever a document made it write."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def complete_id(incomplete: str) -> list[tuple[str, str]]:
    """Adapter ids for the shell's completion, with what tells them apart; none if no service answers."""
    import os

    import httpx

    from service.client import connection

    url = os.environ.get("GENADAPTER_URL", DEFAULT_URL)
    try:
        with httpx.Client(**connection(url) | {"timeout": COMPLETION_S}) as client:
            found = client.get("/adapters", params={"limit": COMPLETION_IDS}).raise_for_status().json()["data"]
            named = [(item["id"], f"{item['tokens']} tokens") for item in found]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        named = []
    return [item for item in [*named, (NO_ADAPTER, "the bare model")] if item[0].startswith(incomplete)]
