"""What `genadapter serve` says while it starts, and how to use the service once it can be used."""

from __future__ import annotations

import os
import sys
import time

from service.commands.client import Output
from service.settings import Settings

# So often it is said what is still waited for: the engine alone takes a minute or so.
STILL_S = 15.0
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"
# For a first look: a text and a question about it that the shipped generator answers.
TEXT = "The male glass frog of Lake Imbari guards the eggs for eighteen days. Its greatest enemy is the banded heron."
QUESTION = "What is the greatest enemy of the glass frog? Answer with a short phrase."


class Stages:
    """What is happening, with the seconds since the start, on standard error; standard output gets how to use it."""

    def __init__(self, as_json: bool = False) -> None:
        self._output = Output(as_json)
        self._begin = self._said = time.monotonic()
        self._ready: set[str] = set()

    def part_is_ready(self, part: str) -> None:
        if part not in self._ready:
            self._ready.add(part)
            self.say(f"{part}: ready")

    def say(self, text: str) -> None:
        self._said = time.monotonic()
        line = f"[{self._said - self._begin:5.1f} s] {text}"
        # On a terminal it stands out from the many lines of the engine.
        print(f"{BOLD}{line}{PLAIN}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)

    def still(self, parts: dict[str, str]) -> None:
        """Says what is not ready, if nothing has been said for a while."""
        if time.monotonic() - self._said >= STILL_S:
            missing = ", ".join(f"{part} ({state})" for part, state in parts.items() if state != "ok")
            self.say(f"still waiting for: {missing.replace('does not answer', 'does not answer yet')}")

    def all_is_ready(self, url: str, settings: Settings) -> None:
        self.say(f"ready on {url}")
        seconds = round(time.monotonic() - self._begin, 1)
        self._output.show({"url": url, "pid": os.getpid(), "seconds": seconds}, _how_to(url, settings))
        sys.stdout.flush()


def _how_to(url: str, settings: Settings) -> str:
    key = "" if settings.api_keys_file is None else " -H 'Authorization: Bearer YOUR_KEY'"
    body = f"{key} -H 'Content-Type: application/json' \\\n    -d"
    messages = f'[{{"role": "user", "content": "{QUESTION}"}}]'
    return f"""
Playground: {url}/   API: {url}/docs

Make an adapter of a text (or of a file: -F file=@report.pdf):

  curl -s {url}/contextualize{body} '{{"text": "{TEXT}"}}'

and ask with its id:

  curl -s {url}/generate{body} '{{"adapter_id": "ga-...", "messages": {messages}, "temperature": 0}}'
"""
