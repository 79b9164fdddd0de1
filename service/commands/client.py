"""What the commands that talk to a running service share: the connection, errors in words, exit codes, two forms of
output."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_S = 5.0
# Long documents on a CPU; the service's own deadline is shorter.
ANSWER_S = 900.0
# 1: the service said no; 2: the command was used wrongly; 3: no service answers.
EXIT_REFUSED, EXIT_USAGE, EXIT_UNREACHABLE = 1, 2, 3

UrlOption = Annotated[str, typer.Option("--url", envvar="GENADAPTER_URL", help="Where the service listens.")]
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
    """A client of the service; what goes wrong becomes one line and an exit code. The key comes from
    GENADAPTER_API_KEY."""
    import httpx

    key = os.environ.get("GENADAPTER_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        with httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False) as client:
            yield client
    except httpx.ConnectError:
        output.fail(f"no service answers at {url}: start one with `genadapter serve`, or set --url", EXIT_UNREACHABLE)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        output.fail(f"the connection to {url} failed: {error or type(error).__name__}", EXIT_UNREACHABLE)


def checked(response: httpx.Response, output: Output) -> httpx.Response:
    """The response if all is well; else the service's own words and exit code 1."""
    if response.is_success:
        return response
    response.read()
    try:
        error = response.json()
        message = error["error"]["message"]
    except (ValueError, KeyError, TypeError):
        error, message = None, f"the answer has status {response.status_code} and is none of this service's"
    retry = response.headers.get("retry-after")
    output.fail(message + (f" (try again in {retry} s)" if retry else ""), EXIT_REFUSED, error)
