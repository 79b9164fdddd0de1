"""What the routes do when all is well, over HTTP, against a real store."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openai import OpenAI

from tests.contract.conftest import Service
from tests.contract.doubles import GENERATOR_FINGERPRINT, MODEL


def test_a_text_becomes_an_adapter_and_the_same_text_gives_it_again(service: Service) -> None:
    request = {"text": "one two three", "ttl_seconds": 60, "metadata": {"colour": "blue"}}
    first = service.client.post("/contextualize", json=request)
    assert first.status_code == 201
    body = first.json()
    assert re.fullmatch(r"ga-[0-9a-f]{32}", body["id"])
    assert set(body["timings_ms"]) == {"parse", "tokenize", "queue", "forward", "factorize", "store"}
    expected = {"object": "adapter", "base_model": MODEL, "generator": GENERATOR_FINGERPRINT, "tokens": 3, "rank": 4}
    expected |= {"parent": None, "reused": False, "metadata": {"colour": "blue"}, "chunks": 1}
    assert expected.items() <= body.items()
    assert abs(body["expires_at"] - body["created_at"] - 60) <= 1

    again = service.client.post("/contextualize", json={**request, "ttl_seconds": 600, "metadata": {}})
    assert again.status_code == 200
    assert again.json()["id"] == body["id"]
    assert again.json()["reused"] is True
    assert again.json()["expires_at"] >= body["expires_at"] + 500
    assert again.json()["metadata"] == {"colour": "blue"}
    shorter = service.client.post("/contextualize", json=request)
    assert shorter.json()["expires_at"] == again.json()["expires_at"], "a promised life is never shortened"


def test_the_id_depends_on_content_and_strategy_alone(service: Service) -> None:
    base = service.create("alpha beta")["id"]
    assert service.create("alpha beta", strategy="concat")["id"] == base, "the default named is the default"
    assert service.create("alpha beta", strategy="parallel")["id"] != base
    assert service.create("alpha beta gamma")["id"] != base


def test_conversations_and_documents(service: Service) -> None:
    turns = [{"role": "user", "content": "My boat is red."}, {"role": "assistant", "content": "Noted."}]
    talk = service.client.post("/contextualize", json={"messages": turns})
    assert talk.json()["id"] == service.create("User: My boat is red.\nAssistant: Noted.")["id"]
    documents = [{"title": "Log", "text": "Day one."}, {"text": "Day two."}]
    both = service.client.post("/contextualize", json={"documents": documents})
    assert both.json()["id"] == service.create("# Log\n\nDay one.\n\nDay two.")["id"]


def test_identical_requests_at_once_share_one_pass(service: Service) -> None:
    service.backend.open.clear()
    before = len(service.backend.batches)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(service.client.post, "/contextualize", json={"text": "shared work"}) for _ in range(4)]
        time.sleep(0.3)
        service.backend.open.set()
        answers = [call.result() for call in calls]
    assert len(service.backend.batches) == before + 1
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_list_show_delete(start_service: Any) -> None:
    service = start_service()
    made = [service.create(f"listed document {number}")["id"] for number in range(5)]
    page = service.client.get("/adapters", params={"limit": 2}).json()
    assert [item["id"] for item in page["data"]] == made[:2:-1]
    assert page["has_more"] is True
    page = service.client.get("/adapters", params={"limit": 2, "after": page["last_id"]}).json()
    assert [item["id"] for item in page["data"]] == [made[2], made[1]]
    shown = service.client.get(f"/adapters/{made[0]}")
    assert shown.status_code == 200
    assert shown.json()["id"] == made[0]
    assert "timings_ms" not in shown.json()
    assert service.client.delete(f"/adapters/{made[0]}").status_code == 204
    for call in (service.client.get, service.client.delete):
        assert call(f"/adapters/{made[0]}").status_code == 404
    assert made[0] not in service.client.get("/adapters").text


def test_an_adapter_expires(service: Service) -> None:
    made = service.create("short lived", ttl_seconds=1)["id"]
    time.sleep(1.2)
    assert service.client.get(f"/adapters/{made}").status_code == 404
    assert service.client.post("/generate", json={"adapter_id": made, "prompt": "hi"}).status_code == 404
    assert made not in service.client.get("/adapters", params={"limit": 100}).text
    assert service.create("short lived")["reused"] is False


def test_generate(service: Service) -> None:
    made = service.create("for generate")["id"]
    request = {"adapter_id": made, "prompt": "hi", "max_tokens": 5, "top_k": 3, "seed": 1, "stop": ["x"], "n": 2}
    body = service.client.post("/generate", json=request).json()
    assert body["adapter_id"] == made
    assert body["model"] == MODEL
    assert [choice["text"] for choice in body["choices"]] == ["Hello wörld"] * 2
    assert [choice["finish_reason"] for choice in body["choices"]] == ["stop"] * 2
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert set(body["timings_ms"]) == {"resolve", "first_token", "total"}
    sent = service.engine.requests[-1]
    assert {"model": made, "max_tokens": 5, "top_k": 3, "seed": 1, "stop": ["x"], "n": 2}.items() <= sent.items()
    assert sent["stream_interval"] > 5, "the first token, and then the rest at once"
    bare = service.client.post("/generate", json={"messages": [{"role": "user", "content": "hi"}]}).json()
    assert bare["adapter_id"] is None
    assert bare["choices"][0]["text"] == "Hello wörld"
    assert service.engine.requests[-1]["model"] == MODEL


def test_generate_logprobs_have_one_form(service: Service) -> None:
    expected = {"token": "Hello", "logprob": -0.5, "top_logprobs": [{"token": "Hello", "logprob": -0.5}]}
    for source in ({"prompt": "hi"}, {"messages": [{"role": "user", "content": "hi"}]}):
        body = service.client.post("/generate", json={**source, "logprobs": 1}).json()
        assert body["choices"][0]["logprobs"]["content"][0] == expected


def test_generate_streams(service: Service) -> None:
    with service.client.stream("POST", "/generate", json={"prompt": "hi", "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    assert "stream_interval" not in service.engine.requests[-1], "each token when it is there"
    objects = [json.loads(event) for event in events[:-1]]
    assert "".join(choice["text"] for item in objects for choice in item["choices"]) == "Hello wörld"
    assert objects[0]["usage"] is None
    assert objects[-1]["usage"]["total_tokens"] == 5
    assert objects[-1]["timings_ms"]["first_token"] is not None
    assert len({item["id"] for item in objects}) == 1


def test_the_official_client_works(service: Service) -> None:
    made = service.create("for the official client")["id"]
    client = OpenAI(base_url=f"{service.url}/v1", api_key="unused")
    assert next(model.id for model in client.models.list()) == MODEL
    assert made in [model.id for model in client.models.list()]
    messages: Any = [{"role": "user", "content": "hi"}]
    stream = client.chat.completions.create(model=made, messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "Hello wörld"
    whole = client.chat.completions.create(model=made, messages=messages, extra_body={"top_k": 4})
    assert whole.model == made
    assert service.engine.requests[-1]["top_k"] == 4
    streamed = client.completions.create(model=MODEL, prompt="hi", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == "Hello wörld"


def test_v1_passes_on_what_it_does_not_know_and_keeps_its_own_headers(service: Service) -> None:
    headers = {"x-request-id": "mine-1", "authorization": "Bearer secret"}
    body = {"model": MODEL, "prompt": "hi", "future_option": {"a": 1}, "request_id": "clash"}
    response = service.client.post("/v1/completions", json=body, headers=headers)
    assert response.json()["x_extra"] == "kept"
    assert response.headers["x-request-id"] == "mine-1"
    assert service.engine.requests[-1]["future_option"] == {"a": 1}
    assert "request_id" not in service.engine.requests[-1]
    assert "authorization" not in service.engine.headers[-1]
    assert "x-request-id" not in service.engine.headers[-1]


def test_health_and_metrics(service: Service) -> None:
    assert service.client.get("/healthz").status_code == 200
    ready = service.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"ready": True, "parts": {"store": "ok", "engine": "ok", "generator": "ok"}}
    made = service.create("for metrics")["id"]
    service.client.get(f"/adapters/{made}")
    text = service.client.get("/metrics").text
    for name in ("requests_total", "contextualize_stage_seconds_bucket", "store_operation_seconds_bucket"):
        assert f"genadapter_{name}" in text
    assert "ga-" not in text, "no id may become a label"
    assert 'route="/adapters/{adapter_id}"' in text


def test_the_text_alone(service: Service) -> None:
    """What is read is what the adapter is made of; nothing is kept."""
    before = service.client.get("/adapters").json()["first_id"]
    files = [("file", ("a.md", b"# A\n\nOne.")), ("file", ("b.html", b"<p>Two <b>three</b></p>"))]
    told = service.client.post("/contextualize/text", files=files).json()["text"]
    assert "One." in told
    assert "Two three" in told
    conversation = {"messages": [{"role": "user", "content": "My boat is red."}]}
    assert service.client.post("/contextualize/text", json=conversation).json() == {"text": "User: My boat is red."}
    assert service.client.get("/adapters").json()["first_id"] == before
    assert service.create(told)["id"] == service.client.post("/contextualize", files=files).json()["id"]
