"""`genadapter chat`, and the shell's completion of ids, against a running service."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.commands.chat import MAX_HISTORY_CHARS, Conversation
from service.commands.client import printable
from tests.contract.conftest import Service

UNKNOWN = "ga-" + "0" * 32
CLI = (sys.executable, "-m", "service.cli")


def test_piped_it_answers_line_by_line_and_remembers_a_bounded_past(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENADAPTER_URL", service.url)
    made = service.create("what the chat is about")["id"]
    service.engine.requests.clear()
    lines = "one\n\ntwo\nthree\n/clear\nfour\n/quit\nfive\n"
    result = CliRunner().invoke(app, ["chat", made, "--turns", "1", "--json"], input=lines)
    assert result.exit_code == 0, result.output
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert answers == [{"question": question, "answer": "Hello wörld"} for question in ("one", "two", "three", "four")]
    sent = [[message["content"] for message in request["messages"]] for request in service.engine.requests]
    assert sent == [["one"], ["one", "Hello wörld", "two"], ["two", "Hello wörld", "three"], ["four"]]
    assert {request["model"] for request in service.engine.requests} == {made}


def test_what_goes_wrong(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENADAPTER_URL", service.url)
    for arguments, lines, words in (
        (["chat", UNKNOWN], "hi\n", "No such adapter"),
        (["chat", "base"], "midway there\n", "engine does not answer"),
        (["chat", "base"], "toolong\n", "maximum context length"),
    ):
        result = CliRunner().invoke(app, arguments, input=lines)
        assert result.exit_code == 1
        assert words in result.stderr
    nobody = CliRunner().invoke(app, ["chat", "base", "--url", "http://127.0.0.1:1"], input="")
    assert (nobody.exit_code, "genadapter serve" in nobody.stderr) == (3, True), "told before the first question"


def test_on_a_terminal_a_refusal_ends_the_question_and_not_the_conversation(service: Service) -> None:
    made = service.create("a terminal conversation")["id"]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "GENADAPTER_URL": service.url, "TERM": "dumb"}
    command = [*CLI, "chat", made]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    terminal = Terminal(ours)
    try:
        for question, answer in (("explode", "genadapter: "), ("hello", "Hello wörld"), ("/quit", None)):
            terminal.until("> ")
            os.write(ours, f"{question}\n".encode())
            if answer:
                terminal.until(answer)
        assert process.wait(60) == 0, terminal.shown
    finally:
        process.kill()
        process.wait()
        os.close(ours)


class Terminal:
    """What a program shows, read up to some words; what came after them in the same read is kept for the next call."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.shown = descriptor, b""

    def until(self, words: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while words.encode() not in self.shown:
            ready, _, _ = select.select([self.descriptor], [], [], max(0, deadline - time.monotonic()))
            assert ready, self.shown
            self.shown += os.read(self.descriptor, 4096)
        self.shown = self.shown.partition(words.encode())[2]


def test_a_long_past_is_dropped_by_its_length() -> None:
    conversation = Conversation(turns=100)
    for number in range(10):
        conversation.answered(f"question {number}", "x" * (MAX_HISTORY_CHARS // 3))
    assert [message["content"][:10] for message in conversation.messages[::2]] == ["question 8", "question 9"]


def test_a_terminal_gets_no_orders_from_a_model() -> None:
    assert printable("a\x1b]0;owned\x07b\x9b31m\r\tc\n\u202edé") == "a]0;ownedb31m\tc\ndé"


def test_append_and_keep_state(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENADAPTER_URL", service.url)
    (tmp_path / "day.txt").write_text("the first day of the command line")

    def made(*arguments: str) -> dict[str, object]:
        result = CliRunner().invoke(app, ["contextualize", str(tmp_path / "day.txt"), "--json", *arguments])
        assert result.exit_code == 0, result.output
        body: dict[str, object] = json.loads(result.stdout)
        return body

    first = made("--keep-state")
    second = made("--append", str(first["id"]))
    assert second["parent"] == first["id"]
    assert second["state_expires_at"] is not None
    assert made("--append", str(second["id"]), "--no-keep-state")["state_expires_at"] is None
    plain = made("--ttl", "77")
    (tmp_path / "day.txt").write_text("the second day of the command line")
    refused = CliRunner().invoke(app, ["contextualize", str(tmp_path / "day.txt"), "--append", str(made()["id"])])
    assert (refused.exit_code, "keep_state" in refused.stderr) == (1, True), plain


@pytest.mark.parametrize("words", [["genadapter", "cha"], ["genadapter", "chat", "ga-"]])
def test_the_shell_completes_commands_and_ids(service: Service, words: list[str]) -> None:
    made = service.create("to be completed")["id"]
    environment = {
        **os.environ,
        "GENADAPTER_URL": service.url,
        "_GENADAPTER_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    program = "from service.cli import app; app(prog_name='genadapter')"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert (made if len(words) == 3 else "chat") in done.stdout.split(), done
