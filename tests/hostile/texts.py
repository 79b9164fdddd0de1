"""Web pages and texts that should not be."""

from __future__ import annotations

import gzip

Files = dict[str, bytes]


def pages(url: str) -> Files:
    remote = f"""<html><head><base href="{url}/"><link rel="stylesheet" href="{url}/a.css">
<meta http-equiv="refresh" content="0;url={url}/r"><script src="{url}/a.js"></script><script>fetch("{url}/b")</script>
</head><body onload="fetch('{url}/c')">hello<img src="{url}/a.png" srcset="{url}/b.png 2x">
<iframe src="{url}/f"></iframe><object data="{url}/o"></object><embed src="{url}/e"><video src="{url}/v"></video>
<form action="{url}/g"><input autofocus></form><style>@import url({url}/i.css); p {{background: url({url}/h)}}</style>
<svg><use href="{url}/s#a"/><image href="{url}/t"/></svg></body></html>"""
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    charset = '<html><head><meta charset="{}"></head><body>hello</body></html>'
    return {
        "points-everywhere": remote.encode(),
        "billion-laughs": f'<!DOCTYPE x [<!ENTITY l0 "ha">{entities}]><html><body>&l11;</body></html>'.encode(),
        "names-a-local-file": b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><html><body>&a; hello</body></html>',
        "names-a-remote-dtd": f'<!DOCTYPE html SYSTEM "{url}/dtd"><html><body>hello</body></html>'.encode(),
        "includes-a-local-file": b'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="/etc/passwd" parse="text"/>hello',
        "a-million-deep": b"<div>" * 1_000_000 + b"hello",
        "tables-50000-deep": b"<table><tr><td>" * 50_000 + b"hello",
        "preformatted-100000-deep": b"<pre>" * 100_000 + b"x <b>" * 10_000,
        "a-million-tags": b"<b>x</b>" * 1_000_000,
        "a-million-attributes": b"<p " + b"".join(b"a%d=1 " % n for n in range(300_000)) + b">hello</p>",
        "an-endless-attribute": b'<p title="' + b"x" * 10_000_000 + b'">hello</p>',
        "a-comment-without-end": b"hello<!--" + b"-" * 5_000_000,
        "a-section-without-end": b"hello<![CDATA[" + b"]" * 5_000_000,
        "references-to-no-character": b"<p>hello &#xD800; &#x110000; &#0; &#-1; &#99999999999999999999; &unknown; &#xDFFF;</p>",
        "zeros-between": b"<p>hel\x00lo</p>",
        "half-a-wide-character": "<p>hello</p>".encode("utf-16") + b"\x3c",
        "wide-surrogates": b"\xff\xfe" + "<p>hello".encode("utf-16-le") + b"\x00\xd8\x00\xd8",
        "says-utf-7": charset.format("utf-7").encode(),
        "says-a-codec-that-unpacks": charset.format("zlib").encode(),
        "says-a-codec-that-escapes": charset.format("unicode_escape").replace("hello", "\\ud800 hello").encode(),
        "says-no-charset-there-is": charset.format("../../etc/passwd").encode(),
        "says-idna": charset.format("idna").encode(),
        "xml-in-wide-characters-unmarked": "<html>hello</html>".encode("utf-32-be"),
        "also-a-pdf": b"%PDF-1.7\n<html><body>hello</body></html>",
        "compressed": gzip.compress(b"<p>hello</p>" * 100_000),
        "script-alone": b"<script>steal()</script><style>p{}</style>",
        "an-instruction": b"<?php system('id'); ?><?xml-stylesheet href='file:///etc/passwd'?><p>hello</p>",
    }


def plain() -> Files:
    return {
        "zeros": bytes(100_000),
        "zeros-between": b"hel\x00lo",
        "surrogates-as-bytes": b"hello \xed\xa0\x80\xed\xb0\x80",
        "overlong": b"hello \xc0\xaf\xe0\x80\xaf",
        "wide-and-odd": b"\xff\xfeh\x00e",
        "wide-surrogates": b"\xff\xfeh\x00\x00\xd8",
        "wider": "hello".encode("utf-32"),
        "a-mark-alone": b"\xef\xbb\xbf",
        "white-space": b" \t\n\r\x0b\x0c" * 100_000,
        "one-word-of-ten-megabytes": b"x" * 10_000_000,
        "five-million-words": b"x " * 5_000_000,
        "terminal-escapes": b"\x1b]0;title\x07\x1b[2J hello",
        "marks-upon-marks": ("h" + "\u0301" * 100_000).encode(),
        "writing-in-both-directions": "\u202e\u2066hello\u2069\u202c".encode(),
        "invisible": "\u200b\u2060\ufeff".encode(),
        "a-program": b"\x7fELF" + bytes(100),
        "rich-text": b"{\\rtf1 hello}",
        "compressed": gzip.compress(b"hello"),
        "also-a-zip": b"hello PK\x03\x04" + bytes(30),
        "json-deep": b"[" * 1_000_000,
    }


NAMES = {
    "climbs": "../../../../etc/passwd.txt",
    "two-lines": "a\nb\r.txt",
    "reads-backwards": "fdp\u202etxt.txt",
    "a-kilobyte-long": "x" * 1000 + ".txt",
    "hidden-ending": "a.txt.exe",
    "zero": "a.txt\x00.pdf",
    "nothing": ".txt",
    "device": "/dev/stdin.html",
}
