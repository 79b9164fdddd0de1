"""Files into text, and hostile or broken files into clear answers; the parsers run in their real child process."""

from __future__ import annotations

import asyncio
import io
import os
import time
import zipfile

import docx
import pytest

from service.documents import DocumentParser
from service.errors import GenadapterError, Unprocessable, UnsupportedType
from service.prompts import Document, conversation_text, documents_text


def pdf(text: str, *, encrypted: bool = False) -> bytes:
    """A PDF of one page, written by hand."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> /MediaBox [0 0 612 792] >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (b"41" * 32, b"42" * 32),
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    security = b"/Encrypt 6 0 R /ID [<00><00>]" if encrypted else b""
    return out + b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        security,
        start,
    )


def word_file(*paragraphs: str) -> bytes:
    document = docx.Document()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    table = document.add_table(1, 2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "left", "right"
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def zip_of(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def parse(name: str, data: bytes, timeout_s: float = 20) -> Document:
    async def run() -> Document:
        return await DocumentParser(workers=1, timeout_s=timeout_s, memory_bytes=1 << 30, unpacked_bytes=1 << 28).parse(
            name, data
        )

    return asyncio.run(run())


HTML = b"""<!doctype html><html><head><title>t</title><script>steal()</script></head><body>
<h1>Harbour</h1><p>The <b>red</b> boat &amp; the <i>blue</i> one.</p><!-- hidden -->
<script src="http://example.invalid/x.js">evil()</script><style>p {}</style><img src="http://example.invalid/a.png">
<pre>a  b
c</pre></body></html>"""


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.txt", b"plain text", "plain text"),
        ("a.TXT", "grüße\n".encode(), "grüße\n"),
        ("a.txt", "\ufeffmarked".encode(), "marked"),
        ("a.txt", "wide".encode("utf-16"), "wide"),
        ("a.txt", "caf\xe9 \x93quoted\x94".encode("latin-1"), "café “quoted”"),
        ("notes.md", b"# Title\n\n* one", "# Title\n\n* one"),
        ("p.html", HTML, "Harbour\nThe red boat & the blue one.\na  b\nc"),
        ("b.pdf", pdf("The boat is red."), "The boat is red."),
        ("c.docx", word_file("First.", "Second."), "First.\n\nSecond.\n\nleft | right"),
    ],
)
def test_text_is_read(name: str, data: bytes, text: str) -> None:
    assert parse(name, data) == Document(text, title=name)


@pytest.mark.parametrize(
    ("name", "data", "error", "words"),
    [
        ("a.exe", b"MZ", UnsupportedType, "send .txt"),
        ("noextension", b"text", UnsupportedType, "not of a type"),
        ("", b"text", UnsupportedType, "not of a type"),
        ("a.txt", b"", Unprocessable, "is empty"),
        ("a.pdf", b"", Unprocessable, "is empty"),
        ("a.txt", b" \n\t ", Unprocessable, "no text"),
        ("a.txt", b"\x00\x01\x02binary", UnsupportedType, "binary"),
        ("a.md", os.urandom(4096), UnsupportedType, "not text"),
        ("a.txt", pdf("hidden"), UnsupportedType, "is a PDF"),
        ("a.md", zip_of(x=b"y"), UnsupportedType, "zip"),
        ("a.html", b"\x00\xff\x00<p>", UnsupportedType, "binary"),
        ("a.html", b"<script>only()</script>", Unprocessable, "no text"),
        ("a.pdf", b"just text", UnsupportedType, "does not look like a PDF"),
        ("a.pdf", pdf("cut")[:60], Unprocessable, "broken"),
        ("a.pdf", pdf(""), Unprocessable, "text recognition"),
        ("a.pdf", pdf("locked", encrypted=True), Unprocessable, "encrypted"),
        ("a.docx", b"\xd0\xcf\x11\xe0old", UnsupportedType, ".docx"),
        ("a.docx", b"PK\x03\x04 not whole", Unprocessable, "broken"),
        ("a.docx", zip_of(hello=b"world"), UnsupportedType, "no Word file"),
        ("a.docx", zip_of(**{"[Content_Types].xml": b"<a"}), Unprocessable, "broken"),
        ("a.docx", zip_of(**{"[Content_Types].xml": bytes(300 * 1024**2)}), Unprocessable, "unpacks to more"),
    ],
)
def test_what_is_no_document_is_refused(name: str, data: bytes, error: type[GenadapterError], words: str) -> None:
    with pytest.raises(error, match=words):
        parse(name, data)


def test_a_parser_without_memory_ends_alone() -> None:
    deep = b"<div>" * 3_000_000 + b"text"
    with pytest.raises(Unprocessable, match=r"broken, or needs more|nested|could not be read"):
        parse("deep.html", deep, timeout_s=1)


def test_a_parser_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.documents.sys.executable", "/bin/sleep")
    monkeypatch.setattr("service.documents.START_ALLOWANCE_S", 0.2)
    begin = time.monotonic()
    with pytest.raises(Unprocessable):
        parse("a.pdf", pdf("x"), timeout_s=0.1)
    assert time.monotonic() - begin < 3


def test_names_in_messages_are_harmless() -> None:
    with pytest.raises(UnsupportedType) as caught:
        parse("a\n\x1b[31m" + "x" * 500 + ".exe", b"x")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_prompt_forms() -> None:
    assert documents_text([Document("a\n", "T"), Document("b")]) == "# T\n\na\n\nb"
    assert conversation_text([("system", "s"), ("user", " u "), ("tool", "t")]) == "System: s\nUser: u\nTool: t"
