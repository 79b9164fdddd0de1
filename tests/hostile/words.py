"""Word files that should not be."""

from __future__ import annotations

import io
import struct
import zipfile

import docx

Files = dict[str, bytes]
W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
RELS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
BODY = "word/document.xml"


def whole() -> dict[str, bytes]:
    """The parts of a good file."""
    buffer = io.BytesIO()
    document = docx.Document()
    document.add_paragraph("hello")
    document.save(buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(parts: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_body(inner: str, prolog: str = "") -> bytes:
    xml = f'<?xml version="1.0"?>{prolog}<w:document xmlns:w="{W}"><w:body>{inner}</w:body></w:document>'
    return packed(whole() | {BODY: xml.encode()})


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def table(cell: str, rows: int = 1) -> str:
    return "<w:tbl><w:tblPr/><w:tblGrid/>" + f"<w:tr><w:tc>{cell}</w:tc></w:tr>" * rows + "</w:tbl>"


def laughs(levels: int = 12) -> str:
    lines = [f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, levels)]
    return f'<!DOCTYPE x [<!ENTITY l0 "ha">{"".join(lines)}]>'


def with_claimed_size(data: bytes, size: int) -> bytes:
    """Every entry of the directory says that it unpacks to `size`."""
    out, at = bytearray(data), 0
    while (at := out.find(b"PK\x01\x02", at)) >= 0:
        out[at + 24 : at + 28] = struct.pack("<I", size)
        at += 4
    return bytes(out)


def overlapping(copies: int) -> bytes:
    """A zip whose directory names the same compressed megabytes again and again."""
    data = bytearray(packed({"[Content_Types].xml": b"<a/>", BODY: bytes(4 << 20)}))
    begin = data.find(b"PK\x01\x02", data.find(b"PK\x01\x02") + 4)
    end = data.find(b"PK\x05\x06")
    tail = bytearray(data[end:])
    entry, first = bytes(data[begin:end]), data.find(b"PK\x01\x02")
    directory = bytes(data[first:begin]) + entry * copies
    tail[8:10] = tail[10:12] = struct.pack("<H", copies + 1)
    tail[12:16] = struct.pack("<I", len(directory))
    return bytes(data[:first]) + directory + bytes(tail)


def nested_tables(depth: int) -> str:
    inner = paragraph("deep")
    for _ in range(depth):
        inner = table(inner + "<w:p/>")
    return inner


def relationship(target: str, kind: str) -> bytes:
    link = f'<Relationship Id="rId1" Type="{OFFICE}/{kind}" Target="{target}" TargetMode="External"/>'
    return f'<?xml version="1.0"?><Relationships xmlns="{RELS}">{link}</Relationships>'.encode()


def all_words(url: str) -> Files:
    parts = whole()
    encrypted = bytearray(packed(parts))
    encrypted[encrypted.find(b"PK\x01\x02") + 8] |= 1
    merged = "<w:tbl><w:tblPr/><w:tblGrid/><w:tr><w:tc><w:tcPr><w:vMerge/></w:tcPr><w:p/></w:tc></w:tr></w:tbl>"
    wide = '<w:tbl><w:tblPr/><w:tblGrid/><w:tr><w:tc><w:tcPr><w:gridSpan w:val="999999999"/></w:tcPr><w:p/></w:tc></w:tr></w:tbl>'
    wide_body = f'<?xml version="1.0" encoding="utf-16"?><w:document xmlns:w="{W}"><w:body/></w:document>'
    traversal = parts | {"../../../../tmp/evil": b"x", "/etc/evil": b"x", "C:\\evil": b"x"}
    return {
        "unpacks-to-300-mb": packed(parts | {BODY: bytes(300 << 20)}),
        "lies-about-its-size": with_claimed_size(packed(parts | {BODY: bytes(300 << 20)}), 9),
        "entries-on-top-of-each-other": overlapping(5000),
        "200000-entries": packed({f"{n}": b"" for n in range(20_000)} | parts),
        "zips-in-zips": packed(parts | {"word/inner.docx": packed({"a.docx": packed({"b.docx": packed(parts)})})}),
        "billion-laughs": with_body(paragraph("&l11;"), laughs()),
        "quadratic-blow-up": with_body(paragraph("&a;" * 50_000), f'<!DOCTYPE x [<!ENTITY a "{"x" * 50_000}">]>'),
        "names-a-local-file": with_body(paragraph("&a;"), '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'),
        "names-a-remote-entity": with_body(paragraph("&a;"), f'<!DOCTYPE x [<!ENTITY a SYSTEM "{url}/entity">]>'),
        "names-a-remote-dtd": with_body(paragraph("hello"), f'<!DOCTYPE x SYSTEM "{url}/dtd">'),
        "names-a-remote-parameter": with_body(paragraph("hello"), f'<!DOCTYPE x [<!ENTITY % p SYSTEM "{url}/p"> %p;]>'),
        "includes-a-remote-part": with_body(
            f'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="{url}/include"/>'
        ),
        "template-lies-elsewhere": packed(
            parts | {"word/_rels/settings.xml.rels": relationship(f"{url}/t.dotm", "attachedTemplate")}
        ),
        "body-lies-elsewhere": packed(parts | {"_rels/.rels": relationship(f"{url}/document.xml", "officeDocument")}),
        "body-is-a-local-file": packed(parts | {"_rels/.rels": relationship("file:///etc/passwd", "officeDocument")}),
        "parts-in-a-circle": packed(
            parts
            | {
                "word/_rels/document.xml.rels": relationship("document.xml", "officeDocument").replace(
                    b' TargetMode="External"', b""
                )
            }
        ),
        "paths-that-climb": packed(traversal),
        "no-body": packed({name: data for name, data in parts.items() if name != BODY}),
        "tables-5000-deep": with_body(nested_tables(2000)),
        "elements-100000-deep": with_body("<w:p>" * 100_000 + "</w:p>" * 100_000),
        "a-cell-of-a-billion-columns": with_body(wide),
        "a-cell-merged-with-nothing": with_body(merged),
        "a-million-empty-rows": with_body(table("<w:p/>", 300_000)),
        "locked": bytes(encrypted),
        "cut-in-the-middle": packed(parts)[:-200],
        "body-is-no-xml": packed(parts | {BODY: b"<w:document"}),
        "body-is-a-pdf": packed(parts | {BODY: b"%PDF-1.7\n"}),
        "body-in-another-encoding": packed(parts | {BODY: wide_body.encode("utf-16")}),
        "body-in-no-encoding": packed(parts | {BODY: parts[BODY].replace(b"UTF-8", b"x-no-such")}),
        "types-without-end": packed(parts | {"[Content_Types].xml": b"<Types>" * 50_000}),
        "a-zip-behind-a-program": b"MZ" + bytes(1000) + packed(parts),
    }
