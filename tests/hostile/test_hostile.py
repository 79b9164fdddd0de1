"""Hostile files: each gets an answer of the contract, nothing is fetched, nothing of the machine is told, no child stays."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.conftest import Service, StartService
from tests.contract.test_errors import check
from tests.hostile.pdfs import all_pdfs
from tests.hostile.texts import NAMES, pages, plain
from tests.hostile.words import all_words
from tests.waiting import PATIENCE_S

PARSE_S = 2
READ, REFUSED = {200, 201}, {400, 413, 415, 422}


@dataclass
class Trap:
    """A server that counts who comes."""

    url: str
    visits: list[Any] = field(default_factory=list)


@pytest.fixture(scope="module")
def trap() -> Iterator[Trap]:
    listener = socket.create_server(("127.0.0.1", 0))
    found = Trap(f"http://127.0.0.1:{listener.getsockname()[1]}")

    def listen() -> None:
        while True:
            try:
                connection, address = listener.accept()
            except OSError:
                return
            found.visits.append(address)
            connection.close()

    threading.Thread(target=listen, daemon=True).start()
    yield found
    listener.close()


@pytest.fixture(scope="module")
def service(start_service: StartService) -> Service:
    return start_service(parse_timeout=f"{PARSE_S}s", max_document_tokens=10_000)


def children() -> list[str]:
    """Parsers that run below this process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (folder / "cmdline").read_text()
        except (OSError, IndexError):
            continue
        if parent == os.getpid() and "parse_document" in command:
            found.append(command)
    return found


def names_of(suffix: str) -> list[str]:
    kinds: dict[str, Any] = {".pdf": all_pdfs, ".docx": all_words, ".html": pages, ".txt": lambda _: plain()}
    return list(kinds[suffix]("http://127.0.0.1:9"))


CORPUS = [(suffix, name) for suffix in (".pdf", ".docx", ".html", ".txt") for name in names_of(suffix)]


@pytest.fixture(scope="module")
def files(trap: Trap) -> dict[tuple[str, str], bytes]:
    kinds = {".pdf": all_pdfs(trap.url), ".docx": all_words(trap.url), ".html": pages(trap.url), ".txt": plain()}
    return {(suffix, name): data for suffix, found in kinds.items() for name, data in found.items()}


def upload(service: Service, name: str, data: bytes) -> httpx.Response:
    return service.client.post("/contextualize", files={"file": (name, data)}, timeout=PATIENCE_S)


@pytest.mark.parametrize(("suffix", "name"), CORPUS)
def test_a_hostile_file_is_answered(
    service: Service, trap: Trap, files: dict[tuple[str, str], bytes], suffix: str, name: str
) -> None:
    answer = upload(service, f"{name}{suffix}", files[suffix, name])
    assert answer.status_code in READ | REFUSED, answer.text
    if answer.status_code in REFUSED:
        message = check(answer, answer.status_code)["message"]
        assert "root:" not in message
    assert trap.visits == [], "it fetched something"
    assert children() == [], "its parser still runs"


def test_what_is_read_holds_nothing_of_this_machine(service: Service, files: dict[tuple[str, str], bytes]) -> None:
    """The words that reach the generator, of files that ask for a local or a remote one."""
    words: list[str] = []
    tokenize = service.backend.tokenize
    service.backend.tokenize = lambda text: words.append(text) or tokenize(text)  # type: ignore[func-returns-value,method-assign]
    for (suffix, name), data in files.items():
        if "local-file" in name or "remote" in name:
            upload(service, f"{name} again{suffix}", data + b" ")
    assert len(words) >= 3, "the rest of them is read all the same"
    assert not any("root:" in text or "/bin/" in text for text in words)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_hostile_name_is_answered(service: Service, name: str) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + name.encode("utf-8", "surrogatepass")
    body += b'"\r\n\r\nhello\r\n--b--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = service.client.post("/contextualize", content=body, headers=headers)
    assert answer.status_code in READ | REFUSED
    assert "\n" not in answer.json().get("error", {}).get("message", "")


def test_all_is_well_afterwards(service: Service) -> None:
    assert len(CORPUS) + len(NAMES) >= 100
    assert upload(service, "good.html", b"<p>A good page, after all of this.</p>").status_code == 201
