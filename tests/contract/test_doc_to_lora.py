"""The application for Doc-to-LoRA's evaluation, in front of the real service with the doubles behind it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from service.doc_to_lora import create_app
from tests.contract.conftest import ServerThread, Service
from tests.contract.doubles import MODEL
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def compat(service: Service) -> Iterator[httpx.Client]:
    server = ServerThread(create_app(service.url))
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        yield client
    server.stop()


def test_health(compat: httpx.Client) -> None:
    assert compat.get("/health").json() == {"status": "ok"}


def test_the_context_becomes_an_adapter_and_the_answer_token_ids(compat: httpx.Client, service: Service) -> None:
    body = {"input_txt": "Where is the boat?", "context_txt": "The boat is at pier nine.", "max_new_tokens": 7}
    answer = compat.post("/generate", json={**body, "window_size": 1024})
    assert answer.json() == {"output": [5, 7]}
    adapter = service.create("The boat is at pier nine.")
    assert adapter["reused"] is True
    asked = service.engine.requests[-1]
    expected = {"model": adapter["id"], "max_tokens": 7, "temperature": 0, "return_token_ids": True}
    assert expected.items() <= asked.items()
    assert asked["messages"] == [{"role": "user", "content": "Where is the boat?"}]


def test_a_whole_prompt_goes_as_it_is_and_without_context_the_base_model_answers(
    compat: httpx.Client, service: Service
) -> None:
    prompt = "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    assert compat.post("/generate", json={"input_txt": prompt}).status_code == 200
    asked = service.engine.requests[-1]
    assert (asked["prompt"], asked["model"], asked["add_special_tokens"]) == (prompt, MODEL, False)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"context_txt": "no question"}, 400),
        ({"input_txt": "x", "max_new_tokens": 0}, 422),
        ({"input_txt": "x", "context_txt": "c", "max_new_tokens": 10**9}, 422),
    ],
)
def test_errors_have_the_services_shape(compat: httpx.Client, body: dict[str, object], status: int) -> None:
    answer = compat.post("/generate", json=body)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_service_that_is_away_is_503() -> None:
    server = ServerThread(create_app("http://127.0.0.1:9"))
    try:
        assert httpx.get(f"{server.url}/health").status_code == 503
    finally:
        server.stop()
