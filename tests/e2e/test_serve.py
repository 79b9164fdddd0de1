"""`genadapter serve` as a user starts it: real store, real generator, real engine; from documents to answers, and out."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

pytestmark = pytest.mark.timeout(900)

START_S = 600.0
STOP_S = 60.0
MODEL = "SmolLM2-135M-Instruct"
QUESTION: Any = [{"role": "user", "content": "Who keeps the lighthouse, and what is it called?"}]


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    client: httpx.Client
    log: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("serve")) as service:
        yield service


@contextmanager
def serving(folder: Path, **settings: str) -> Iterator[Running]:
    """A service with these settings, which keeps all it has in `folder`."""
    log = folder / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GENADAPTER_")}
    environment |= {"GENADAPTER_DATA_DIR": str(folder / "data"), "GENADAPTER_PORT": "0"}
    environment |= {f"GENADAPTER_{name.upper()}": value for name, value in settings.items()}
    with log.open("wb") as output:
        command = [sys.executable, "-m", "service.cli", "serve"]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder)
    try:
        url = _wait_for(log, process)
        with httpx.Client(base_url=url, timeout=300) as client:
            yield Running(process, client, log)
    finally:
        process.terminate()
        process.wait(STOP_S)


def _wait_for(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"ready on (http://\S+)", log.read_text()):
            return found[1]
        time.sleep(0.2)
    raise AssertionError("it did not become ready:\n" + log.read_text()[-3000:])


def story(seed: int) -> str:
    """Over 1,000 words of a made-up place."""
    names = ["Osric Vane", "Ida Marsh", "Tobias Quill", "Wren Halloway"]
    return "\n".join(
        f"In year {1800 + number}, {names[(number + seed) % 4]} kept the lighthouse of Gull Rock {seed} and wrote "
        f"that {number * 7 % 31} ships had passed before the fog came in."
        for number in range(60)
    )


def pdf(text: str) -> bytes:
    """The text, 40 lines a page, written by hand."""
    lines = text.splitlines()
    pages = [lines[begin : begin + 40] for begin in range(0, len(lines), 40)]
    kids = b" ".join(b"%d 0 R" % (4 + 2 * index) for index in range(len(pages)))
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages))]
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for index, page in enumerate(pages):
        stream = ("BT /F1 9 Tf 14 TL 40 780 Td " + " ".join(f"({line}) Tj T*" for line in page) + " ET").encode()
        resources = b"/Resources << /Font << /F1 3 0 R >> >> /MediaBox [0 0 842 842]"
        objects.append(b"<< /Type /Page /Parent 2 0 R /Contents %d 0 R %s >>" % (5 + 2 * index, resources))
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    head = b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table)
    return out + head + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(out))


def upload(client: httpx.Client, name: str, data: bytes) -> httpx.Response:
    return client.post("/contextualize", files={"file": (name, data)})


def ask(client: httpx.Client, adapter_id: str | None) -> str:
    body = {"adapter_id": adapter_id, "messages": QUESTION, "max_tokens": 24, "temperature": 0}
    response = client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["text"]
    return text


@pytest.mark.parametrize(("name", "make"), [("log.pdf", pdf), ("log.md", str.encode)])
def test_a_document_becomes_an_adapter_that_answers(running: Running, name: str, make: Any) -> None:
    data = make(story(len(name)))
    made = upload(running.client, name, data)
    assert made.status_code == 201, made.text
    body = made.json()
    assert body["tokens"] > 1000
    assert all(body["timings_ms"][stage] > 0 for stage in ("parse", "tokenize", "forward", "factorize", "store"))
    again = upload(running.client, name, data)
    assert (again.status_code, again.json()["id"], again.json()["reused"]) == (200, body["id"], True)
    answer = ask(running.client, body["id"])
    assert answer != ask(running.client, None)

    client = OpenAI(base_url=f"{str(running.client.base_url).rstrip(chr(47))}/v1", api_key="unused")
    options: dict[str, Any] = {"model": body["id"], "messages": QUESTION, "max_tokens": 24, "temperature": 0}
    assert client.chat.completions.create(**options).choices[0].message.content == answer
    stream = client.chat.completions.create(**options, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == answer
    assert [model.id for model in client.models.list()][:1] == [MODEL]


def test_a_context_that_grows_is_the_context_read_at_once(running: Running) -> None:
    """Cut where one call would cut it: the state is kept in float32, so the stored bytes must be the same."""
    client = running.client
    first, second = story(77), story(78)
    parent = client.post("/contextualize", json={"text": first, "keep_state": True}).json()
    assert parent["chunks"] > 1
    child = client.post(f"/adapters/{parent['id']}/append", json={"text": second, "keep_state": False}).json()
    assert child["parent"] == parent["id"]
    alone = client.post("/contextualize", json={"text": second}).json()
    assert (child["tokens"], child["chunks"]) == tuple(parent[key] + alone[key] for key in ("tokens", "chunks"))
    again = client.post("/contextualize", json={"text": second, "keep_state": True}).json()
    other = client.post(f"/adapters/{again['id']}/append", json={"text": first}).json()
    # S is a sum: in which order its parts came is rounding.
    assert ask(client, other["id"]) == ask(client, child["id"])


@pytest.mark.parametrize("name", ["adapters", "cold", "prompt"])
def test_benchmarks_run(running: Running, name: str, tmp_path: Path) -> None:
    url = str(running.client.base_url)
    environment = {**os.environ, "GENADAPTER_BENCH_RESULTS": str(tmp_path)}
    command = [sys.executable, "-m", f"bench.{name}", "--quick", "--url", url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / f"{name}.json").is_file()


def test_engine_limits_are_answered_in_words(running: Running) -> None:
    response = running.client.post("/generate", json={"prompt": "word " * 20_000, "max_tokens": 1})
    assert response.status_code == 400
    assert "context length" in response.json()["error"]["message"]


def test_an_answer_is_the_same_whole_and_in_pieces(running: Running) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0, "logprobs": 1}
    whole = running.client.post("/generate", json=body).raise_for_status().json()
    with running.client.stream("POST", "/generate", json={**body, "stream": True}) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: {")]
    pieces = [piece for line in lines for piece in json.loads(line)["choices"]]
    assert len(pieces) > 10, "each token when it is there"
    choice = whole["choices"][0]
    assert choice["text"] == "".join(piece["text"] for piece in pieces)
    tokens = [item["token"] for item in choice["logprobs"]["content"]]
    assert tokens == [item["token"] for piece in pieces for item in piece["logprobs"]["content"]]
    assert whole["usage"]["completion_tokens"] == len(tokens)
    assert 0 < whole["timings_ms"]["first_token"] < whole["timings_ms"]["total"]


def test_a_download_is_a_peft_lora(running: Running, tmp_path: Path) -> None:
    import io
    import json
    import zipfile

    made = upload(running.client, "small.txt", b"The lighthouse of Gull Rock is kept by Osric Vane.").json()["id"]
    response = running.client.get(f"/adapters/{made}/peft")
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert sorted(archive.namelist()) == ["adapter_config.json", "adapter_model.safetensors"]
        config = json.loads(archive.read("adapter_config.json"))
    assert config["base_model_name_or_path"] == MODEL


def test_a_deleted_adapter_answers_no_more(running: Running) -> None:
    made = upload(running.client, "gone.txt", b"The lighthouse of Gull Rock is kept by nobody.").json()["id"]
    ask(running.client, made)
    assert running.client.delete(f"/adapters/{made}").status_code == 204
    for path, body in (
        ("/generate", {"adapter_id": made, "prompt": "a"}),
        ("/v1/completions", {"model": made, "prompt": "a"}),
    ):
        assert running.client.post(path, json=body).status_code == 404


def test_a_stop_lets_requests_finish_and_ends_with_zero(running: Running) -> None:
    body = {"prompt": "The lighthouse", "max_tokens": 60, "temperature": 0, "stream": True}
    with running.client.stream("POST", "/generate", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        running.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert running.process.wait(STOP_S) == 0
