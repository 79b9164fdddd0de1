"""Good documents with a few bytes changed, cut or doubled: read or refused, never worse. `make fuzz` tries hundreds."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.conftest import Service, StartService
from tests.contract.test_errors import check
from tests.hostile.pdfs import page
from tests.hostile.words import packed, paragraph, table, whole, with_body
from tests.waiting import PATIENCE_S

CASES = int(os.environ.get("FUZZ_CASES", "12"))
PAGE = b"<!doctype html><html><head><meta charset=utf-8><title>t</title></head><body><h1>A</h1><table><tr><td>b"
PAGE += b"<td><pre>c  d</pre></table><p title='e'>f &amp; g<!-- h --><script>i()</script></body></html>"
TABLE = with_body(paragraph("hello") + table(paragraph("cell") + "<w:p/>", 3))
SEEDS = [
    ("a.pdf", page()),
    ("a.docx", packed(whole())),
    ("a.docx", TABLE),
    ("a.html", PAGE),
    ("a.txt", "grüße".encode()),
]
# Where (as a share of the length), how many bytes go, what comes instead.
changes = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=12)), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def service(start_service: StartService) -> Service:
    return start_service(parse_timeout="5s")


def changed(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for place, gone, new in edits:
        at = int(place * len(data))
        data = data[:at] + new + data[at + gone :]
    return data


def judge(service: Service, name: str, data: bytes) -> None:
    answer = service.client.post("/contextualize", files={"file": (name, data)}, timeout=PATIENCE_S)
    if answer.status_code not in (200, 201):
        assert answer.status_code in (413, 415, 422), answer.text
        check(answer, answer.status_code, "file")


quickly = settings(max_examples=CASES, deadline=None, derandomize=CASES <= 100, suppress_health_check=list(HealthCheck))


@quickly
@given(seed=st.sampled_from(SEEDS), edits=changes)
def test_changed_bytes(service: Service, seed: tuple[str, bytes], edits: list[tuple[float, int, bytes]]) -> None:
    judge(service, seed[0], changed(seed[1], edits))


@quickly
@given(part=st.sampled_from(sorted(whole())), edits=changes)
def test_changed_parts_of_a_whole_zip(service: Service, part: str, edits: list[tuple[float, int, bytes]]) -> None:
    """Past the zip's checksums: the XML inside is what is broken."""
    parts = whole()
    judge(service, "a.docx", packed(parts | {part: changed(parts[part], edits)}))


@quickly
@given(text=st.text(max_size=200), encoding=st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32", "cp1252"]))
def test_any_text_in_any_encoding(service: Service, text: str, encoding: str) -> None:
    data = text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")
    for name in ("a.txt", "a.html"):
        judge(service, name, data or b"x")
