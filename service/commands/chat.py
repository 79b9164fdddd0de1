"""`genadapter chat ID`: a conversation on the terminal, with an adapter attached."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.client import (
    DEFAULT_URL,
    EXIT_REFUSED,
    NO_ADAPTER,
    JsonOption,
    Output,
    UrlOption,
    connected,
    in_words,
    printable,
)
from service.commands.generate import AdapterArgument, MaxTokensOption, TemperatureOption, request, stream

if TYPE_CHECKING:
    import httpx

# What is sent with each question: a small model has a context of some thousand tokens, of four characters or so.
MAX_HISTORY_CHARS = 12_000
PROMPT = "> "
QUIT = frozenset({"/quit", "/exit", "/q"})
CLEAR = "/clear"
HELP = f"{CLEAR} forgets the conversation (not the adapter), /quit or Ctrl-D ends it, Ctrl-C stops an answer"


@dataclass
class Conversation:
    """The last turns, as far as they fit: `turns` questions with their answers, and MAX_HISTORY_CHARS characters."""

    turns: int
    messages: list[dict[str, str]] = field(default_factory=list)

    def asked(self, question: str) -> list[dict[str, str]]:
        """The messages to send: what is remembered, and the question."""
        return [*self.messages, {"role": "user", "content": question}]

    def answered(self, question: str, answer: str) -> None:
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        while len(self.messages) > 2 * self.turns or self._chars() > MAX_HISTORY_CHARS:
            del self.messages[:2]

    def _chars(self) -> int:
        return sum(len(message["content"]) for message in self.messages)


def chat(
    adapter_id: AdapterArgument,
    url: UrlOption = DEFAULT_URL,
    max_tokens: MaxTokensOption = 256,
    temperature: TemperatureOption = 0,
    turns: Annotated[int, typer.Option(min=0, help="Questions and answers that are sent along with the next.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """Talk to an adapter. Piped, it takes one question a line.

    Example: genadapter chat ga-3f6c1f0f8b2e4d7a9c5b1e2d3f4a5b6c

    Example: genadapter chat base --turns 2 --json < questions.txt
    """
    output = Output(as_json)
    conversation = Conversation(turns)
    on_terminal = sys.stdin.isatty() and not as_json
    with connected(url, output) as client:
        _greet(client, adapter_id, shown=on_terminal)
        body = request(adapter_id, max_tokens, temperature)
        for line in _lines(on_terminal):
            if line in QUIT:
                return
            if line == CLEAR:
                conversation.messages.clear()
                print("(forgotten)", file=sys.stderr)
            elif line.startswith("/"):
                print(HELP, file=sys.stderr)
            elif line:
                _exchange(client, body, conversation, line, output, on_terminal)


def _greet(client: httpx.Client, adapter_id: str, *, shown: bool) -> None:
    """Says who answers; an adapter, a key or a service that is not there is told before the first question."""
    from service.client import Client, checked

    if adapter_id == NO_ADAPTER:
        models = checked(client.get("/v1/models")).json()["data"]
        words = f"the bare model, {models[0]['id']}"
    else:
        adapter = Client(http=client).get(adapter_id)
        words = f"{adapter.base_model} with {adapter.id}, which has read {adapter.tokens} tokens"
    if shown:
        print(f"{words}\n{HELP}\n")


def _lines(on_terminal: bool) -> Iterator[str]:
    """Without white space around them, until the end of the input."""
    if not on_terminal:
        yield from (line.strip() for line in sys.stdin)
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - lends `input` its editing and its history
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            yield input(PROMPT).strip()


def _exchange(
    client: httpx.Client,
    body: dict[str, Any],
    conversation: Conversation,
    question: str,
    output: Output,
    on_terminal: bool,
) -> None:
    """One question and its answer. On a terminal a refusal ends the question, not the conversation."""
    from service.client import ApiError

    pieces: list[str] = []
    try:
        for text in stream(client, body | {"messages": conversation.asked(question)}):
            pieces.append(text)
            if not output.as_json:
                print(printable(text), end="", flush=True)
    except KeyboardInterrupt:
        if not on_terminal:
            raise
    except ApiError as error:
        if not on_terminal:
            output.fail(str(error), EXIT_REFUSED, error.body)
        print(f"\ngenadapter: {in_words(error)}", file=sys.stderr)
        return
    answer = "".join(pieces)
    conversation.answered(question, answer)
    print(json.dumps({"question": question, "answer": answer}, ensure_ascii=False) if output.as_json else "")
