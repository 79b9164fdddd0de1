"""A PDF, Word or HTML file into text, in a process of its own that may die.

    python -m service.parse_document KIND MEMORY_BYTES CPU_S UNPACKED_BYTES

The file comes on standard input; a JSON object goes to standard output: `{"text": ...}`, or
`{"error": ..., "message": ...}` with the error `unsupported` or `unreadable`.
With the kind `check`: the layers that confine it (`service/sandbox.py`).
Nothing is fetched, nothing is written. Loads neither torch nor the web framework.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from service.sandbox import confine, limit_resources

# A book has some hundreds of pages; a PDF of a few kilobytes can claim millions.
MAX_PAGES = 10_000
MAX_ZIP_ENTRIES = 10_000
MAX_TABLE_DEPTH = 8
# Far more than any token limit lets through; bounds what the parent reads.
MAX_TEXT_CHARS = 32 * 1024**2
# In UTF-8, with the longest escape of JSON for each.
MAX_OUTPUT_BYTES = 6 * MAX_TEXT_CHARS + 1024

DROPPED_TAGS = ("script", "style", "noscript", "template", "svg", "iframe", "object", "head", "canvas")
BLOCK_TAGS = re.compile(
    r"address|article|aside|blockquote|br|dd|div|dl|dt|figcaption|figure|footer|form|h[1-6r]|header|li|main|nav|ol|p|pre|section|table"
    r"|tbody|td|tfoot|th|thead|tr|ul"
)


class Unsupported(Exception):
    """Not a file of this type."""


class Unreadable(Exception):
    """A file of this type that cannot be read; the message says why."""


def pdf_text(data: bytes) -> str:
    import pypdfium2

    if b"%PDF-" not in data[:1024]:
        raise Unsupported("it does not look like a PDF")
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower() or "security" in str(error).lower():
            raise Unreadable("the PDF is encrypted: remove its password first") from None
        raise Unreadable("the PDF is broken: it cannot be opened") from None
    if len(document) > MAX_PAGES:
        raise Unreadable(f"the PDF has {len(document)} pages; {MAX_PAGES} are read at most")
    return "\n\n".join(_limited(_pdf_pages(document)))


def _pdf_pages(document: Any) -> Iterator[str]:
    for index in range(len(document)):
        try:
            page = document[index]
            textpage = page.get_textpage()
            yield textpage.get_text_range().replace("\r\n", "\n").replace("\ufffe", "").replace("\x00", "").strip()
            textpage.close()
            page.close()
        except RuntimeError as error:  # PdfiumError
            raise Unreadable(f"page {index + 1} of the PDF is broken") from error


def docx_text(data: bytes, max_unpacked_bytes: int) -> str:
    """A zip of XML: real ones stay far below what they may unpack to, bombs claim gigabytes."""
    import docx

    if not data.startswith(b"PK"):
        raise Unsupported("it does not look like a .docx file (an old .doc must be saved as .docx first)")
    _check_zip(data, max_unpacked_bytes)
    try:
        document = docx.Document(io.BytesIO(data))
    except Exception as error:  # python-docx lets KeyError, ValueError, lxml and zipfile errors through
        raise Unreadable("the Word file is broken: it cannot be opened") from error
    return "\n\n".join(_limited(_docx_blocks(document.iter_inner_content(), 0)))


def _check_zip(data: bytes, max_unpacked_bytes: int) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise Unreadable("the Word file is broken: it is no whole zip archive") from error
    if "[Content_Types].xml" not in {entry.filename for entry in entries}:
        raise Unsupported("it is a zip archive, but no Word file")
    if any(entry.flag_bits & 1 for entry in entries):
        raise Unreadable("the Word file is encrypted: remove its password first")
    # The unpacker stops at the size that an entry claims, so the claims bound what comes out.
    if len(entries) > MAX_ZIP_ENTRIES or sum(entry.file_size for entry in entries) > max_unpacked_bytes:
        raise Unreadable(f"the Word file unpacks to more than {max_unpacked_bytes} bytes")


def _docx_blocks(blocks: Any, depth: int) -> Iterator[str]:
    for block in blocks:
        rows = getattr(block, "rows", None)
        if rows is None:
            if block.text.strip():
                yield block.text
        elif depth < MAX_TABLE_DEPTH:
            for row in rows:
                cells = [" ".join(_docx_blocks(cell.iter_inner_content(), depth + 1)) for cell in row.cells]
                yield " | ".join(cell for cell in cells if cell)


def html_text(data: bytes) -> str:
    from bs4 import BeautifulSoup
    from bs4.element import CData, Comment, Declaration, Doctype, NavigableString, ProcessingInstruction

    soup = BeautifulSoup(data, "lxml")
    for tag in soup(DROPPED_TAGS):
        tag.decompose()
    hidden = (Comment, Declaration, Doctype, ProcessingInstruction, CData)
    pieces: list[str] = []
    for node in soup.descendants:
        if isinstance(node, NavigableString):
            if not isinstance(node, hidden):
                pieces.append(
                    str(node) if node.find_parent("pre") else " ".join(str(node).split()).join(_edges(str(node)))
                )
        elif BLOCK_TAGS.fullmatch(getattr(node, "name", "")):
            pieces.append("\n")
    return "\n".join(line for line in (part.strip() for part in "".join(_limited(iter(pieces))).split("\n")) if line)


def _edges(text: str) -> tuple[str, str]:
    """One space where there was any at either end, so that words of neighbouring tags stay apart."""
    return (" " if text[:1].isspace() else "", " " if text[-1:].isspace() else "")


def _limited(parts: Iterator[str]) -> Iterator[str]:
    length = 0
    for part in parts:
        length += len(part)
        if length > MAX_TEXT_CHARS:
            raise Unreadable(f"it holds more than {MAX_TEXT_CHARS} characters of text")
        yield part


def parsers(max_unpacked_bytes: int) -> dict[str, Callable[[bytes], str]]:
    return {"pdf": pdf_text, "docx": partial(docx_text, max_unpacked_bytes=max_unpacked_bytes), "html": html_text}


# Loaded before the doors close: shared libraries and what they look for at their start.
LIBRARIES = {"pdf": ["pypdfium2"], "docx": ["docx"], "html": ["bs4", "lxml.etree", "lxml.html"], "check": []}


def main() -> None:
    kind, (memory_bytes, cpu_s, unpacked_bytes) = sys.argv[1], map(int, sys.argv[2:5])
    for name in LIBRARIES[kind]:
        importlib.import_module(name)
    limit_resources(memory_bytes, cpu_s)
    layers = confine()
    result = {"layers": layers} if kind == "check" else _result(parsers(unpacked_bytes)[kind])
    sys.stdout.buffer.write(json.dumps(result, ensure_ascii=False).encode("utf-8", "replace"))


def _result(parse: Callable[[bytes], str]) -> dict[str, str]:
    try:
        return {"text": parse(sys.stdin.buffer.read())}
    except Unsupported as error:
        return {"error": "unsupported", "message": str(error)}
    except (Unreadable, RecursionError) as error:
        return {
            "error": "unreadable",
            "message": str(error) if isinstance(error, Unreadable) else "it is nested too deeply",
        }


if __name__ == "__main__":
    main()
