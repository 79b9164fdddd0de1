"""Uploaded files into text. What needs a parser is parsed in a child process, because files are hostile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from service.errors import Busy, Unprocessable, UnsupportedType
from service.parse_document import MAX_OUTPUT_BYTES
from service.prompts import Document

logger = logging.getLogger(__name__)

KINDS = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".docx": "docx",
}
TAKEN = ".txt, .md, .html, .pdf and .docx"
# Beginnings of files that are no text, whatever their name says.
MAGIC = {
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "a zip archive or an Office file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x7fELF": "a program",
    b"\x1f\x8b": "a gzip archive",
    b"{\\rtf": "an RTF document",
    b"\xd0\xcf\x11\xe0": "an old Office file",
}
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
# Control characters that real text has: tab, line feed, vertical tab, form feed, carriage return, escape (terminal
# colours), NEL.
TEXT_CONTROLS = frozenset("\t\n\x0b\x0c\r\x1b\x85")
# Parses that may wait for a free child before a new one is refused.
MAX_WAITING = 64
# Wall time beyond the parser's own limit before the child is killed: its start.
START_ALLOWANCE_S = 5.0
EXIT_ALLOWANCE_S = 2.0
READ_BYTES = 1 << 16
# Of the service's environment, which holds its secrets, the child sees what it needs to start.
PASSED_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
MAX_NAME = 200

Observer = Callable[[str, str], None]


def kind_of(name: str) -> str:
    """Raises UnsupportedType for an extension that is not taken."""
    kind = KINDS.get(PurePath(name).suffix.lower())
    if kind is None:
        raise UnsupportedType(f"'{_shown(name)}' is not of a type that is taken: send {TAKEN}.", param="file")
    return kind


def decode_text(name: str, data: bytes) -> str:
    """A text file's characters: UTF-8, UTF-16 with its mark, else Windows-1252. Raises UnsupportedType for what is no
    text."""
    for magic, what in MAGIC.items():
        if data.startswith(magic):
            raise UnsupportedType(
                f"'{_shown(name)}' is {what}, not text: name it as what it is, or send {TAKEN}.", param="file"
            )
    encoding = next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    for candidate in (encoding, "cp1252"):
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(candidate)
            if all(char in TEXT_CONTROLS or not _is_control(char) for char in set(text)):
                return text
    raise UnsupportedType(f"'{_shown(name)}' is binary, not text: send {TAKEN}.", param="file")


def _is_control(char: str) -> bool:
    return char < " " or "\x7f" <= char < "\xa0"


def _shown(name: str) -> str:
    """A file name as it may stand in a message: short, one line, printable."""
    return "".join(char if char.isprintable() else "?" for char in name)[:MAX_NAME]


class DocumentParser:
    """Parses uploads; at most `workers` children at once."""

    def __init__(
        self,
        *,
        workers: int,
        timeout_s: float,
        memory_bytes: int,
        unpacked_bytes: int,
        observe: Observer = lambda kind, outcome: None,
    ) -> None:
        self._slots = asyncio.Semaphore(workers)
        self._waiting = 0
        self._timeout_s = timeout_s
        self._limits = (str(memory_bytes), str(int(timeout_s) + 1), str(unpacked_bytes))
        self._observe = observe

    async def parse(self, name: str, data: bytes) -> Document:
        """Raises UnsupportedType, Unprocessable, Busy."""
        kind, outcome = kind_of(name), "refused"
        try:
            if not data:
                raise Unprocessable(f"'{_shown(name)}' is empty.", param="file")
            text = decode_text(name, data) if kind == "text" else await self._in_child(kind, name, data)
            if not text.strip():
                hint = " If its pages are scanned images, run text recognition first." if kind == "pdf" else ""
                raise Unprocessable(f"'{_shown(name)}' holds no text.{hint}", param="file")
            outcome = "read"
            return Document(text, title=_shown(PurePath(name).name))
        finally:
            self._observe(kind, outcome)

    async def confinement(self) -> list[str]:
        """The layers that hold a child on this machine (`service/sandbox.py`); none when it cannot be started."""
        output = await self._run_child("check", "check", b"")
        layers: Any = output.get("layers")
        return list(layers or [])

    async def _in_child(self, kind: str, name: str, data: bytes) -> str:
        if kind == "html" and b"\x00" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UnsupportedType(f"'{_shown(name)}' is binary, not HTML.", param="file")
        if self._waiting >= MAX_WAITING:
            raise Busy("Too many files are being read already: try again shortly.", retry_after_s=self._timeout_s / 4)
        self._waiting += 1
        try:
            async with self._slots:
                output = await self._run_child(kind, name, data)
        finally:
            self._waiting -= 1
        if "text" in output:
            return output["text"]
        error = UnsupportedType if output["error"] == "unsupported" else Unprocessable
        raise error(f"'{_shown(name)}' cannot be used: {output['message']}.", param="file")

    async def _run_child(self, kind: str, name: str, data: bytes) -> dict[str, str]:
        child = await self._start_child(kind)
        output = b""
        try:
            async with asyncio.timeout(self._timeout_s + START_ALLOWANCE_S):
                output = await _exchange(child, data)
                await child.wait()
        except TimeoutError:
            raise Unprocessable(
                f"'{_shown(name)}' could not be read within {self._timeout_s:.0f} seconds: send a simpler one.",
                param="file",
            ) from None
        finally:
            if child.returncode is None:
                child.kill()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(child.wait(), EXIT_ALLOWANCE_S)
        try:
            result: dict[str, str] = json.loads(output)
            return result
        except ValueError:
            logger.warning("the parser of a %s file ended with code %s", kind, child.returncode)
        raise Unprocessable(
            f"'{_shown(name)}' cannot be read: it is broken, or needs more memory or time than is allowed.",
            param="file",
        )

    async def _start_child(self, kind: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # no module from the working folder
            "-m",
            "service.parse_document",
            kind,
            *self._limits,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ},
            start_new_session=True,  # a Ctrl-C for the service is not for the child
        )


async def _exchange(child: asyncio.subprocess.Process, data: bytes) -> bytes:
    """Gives the child its file and takes what it says, which is empty when it says more than it should."""
    assert child.stdin is not None  # they are pipes
    assert child.stdout is not None
    feeding = asyncio.create_task(_feed(child.stdin, data))
    said = bytearray()
    try:
        while chunk := await child.stdout.read(READ_BYTES):
            said += chunk
            if len(said) > MAX_OUTPUT_BYTES:
                child.kill()
                return b""
        return bytes(said)
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def _feed(stream: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stream.write(data)
        await stream.drain()
        stream.close()
