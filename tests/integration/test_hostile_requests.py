"""Fields of vLLM's own API with values that nobody should send, through the service to a real engine: an answer of the contract
to each, and an engine that goes on. `make fuzz` mixes them (FUZZ_CASES)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.app import Loaders, create_app
from service.backend import Identity
from service.settings import Settings
from tests.contract.conftest import ServerThread
from tests.integration.support import BASE_MODEL, Engine
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

CASES = int(os.environ.get("FUZZ_CASES", "40"))
ANSWERED = {200, 400, 413, 422}
BIG, HUGE = 2**31, 2**70


def schema(pattern: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": pattern}}


def nested(depth: int) -> Any:
    inner: Any = {"type": "string"}
    for _ in range(depth):
        inner = {"type": "object", "properties": {"a": inner}, "required": ["a"]}
    return inner


# By field, the values that are tried one by one, and mixed.
FIELDS: dict[str, list[Any]] = {
    "max_tokens": [0, -1, BIG, HUGE, None, "2", 1.5, True],
    "min_tokens": [-1, 2, 9, BIG, HUGE],
    "temperature": [-1, 1e-300, 1e308, HUGE, "hot", None],
    "top_p": [0, -1, 2, 1e-300],
    "top_k": [-2, 0, BIG, HUGE],
    "min_p": [-1, 2, 1.0],
    "seed": [-1, 2**63, HUGE, "a", 0.5],
    "n": [0, 16, 17, True],
    "stop": ["", [""], ["a"] * 1000, [1], "x" * 10_000],
    "stop_token_ids": [[-1], [BIG], [HUGE], ["a"], [0] * 10_000],
    "bad_words": [[""], [" "], ["x" * 10_000], ["a"] * 1000, [None]],
    "allowed_token_ids": [[], [-1], [10**6], [HUGE], [0]],
    "logit_bias": [{"-1": 1}, {"1000000": 1}, {"5": 1e308}, {"a": 1}, {"5": "x"}, {str(HUGE): -100}, {"5": -100}],
    "logprobs": [-1, 0, True, 20, 21, BIG],
    "prompt_logprobs": [-1, -2, 0, 20, BIG],
    "top_logprobs": [-1, 20, 21, BIG],
    "repetition_penalty": [0, -1, 1e-300, 1e300],
    "presence_penalty": [1e308, -3],
    "frequency_penalty": [-1e308, 3],
    "truncate_prompt_tokens": [-1, 0, -5, BIG, 1],
    "echo": [True, "yes"],
    "ignore_eos": [True, 5],
    "best_of": [0, 3, 17],
    "use_beam_search": [True],
    "length_penalty": [0, -1e308],
    "priority": [-5, BIG],
    "suffix": ["end", 5],
    "stream_options": [{"include_usage": "x"}, {}, [], {"continuous_usage_stats": True}],
    "cache_salt": ["", 5, "x" * 100_000],
    "user": ["x" * 100_000, 5],
    "response_format": [
        {"type": "json_object"},
        {"type": "nothing"},
        schema({"$ref": "#"}),
        schema({"$ref": "http://127.0.0.1:9/schema"}),
        schema({"type": "string", "pattern": "(a+)+$"}),
        schema({"type": "string", "pattern": "("}),
        schema({"type": "string", "minLength": BIG}),
        schema({"type": "array", "minItems": 10**6, "items": {"type": "integer"}}),
        schema({"enum": ["x" * 1000] * 1000}),
        schema({"enum": [f"{number}" * 20 for number in range(200)]}),
        schema({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}),
        schema(nested(40)),
        schema(5),
    ],
    "structured_outputs": [
        {"regex": "("},
        {"regex": "(((a|b)*)*)*c"},
        {"regex": "(a{1,500}){1,500}"},
        {"choice": []},
        {"choice": [""]},
        {"grammar": "root ::= root"},
        {"grammar": "root ::= ("},
        {"json": "{"},
        {"regex": "a", "choice": ["b"]},
        {},
    ],
    "chat_template": ["{% for i in range(10**12) %}x{% endfor %}", "{{ ''.__class__.__mro__ }}", 5],
    "chat_template_kwargs": [{"chat_template": "{{ 1/0 }}"}, {"tokenize": True}, {"conversation": []}, 5],
    "continue_final_message": [True],
    "documents": [[{"text": "a"}], [5], 5],
    "tools": [[], [5], [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}]],
    "tool_choice": ["required", "auto", {"type": "function", "function": {"name": "g"}}, 5],
    "vllm_xargs": [{"a": 1}, {"a": {}}, 5],
    "logits_processors": [["os.system"], [{"qualname": "os.system", "args": ["true"]}]],
    "mm_processor_kwargs": [{"a": 1}],
    "return_token_ids": [True],
    "return_tokens_as_token_ids": [True],
    "kv_transfer_params": [{"remote_host": "127.0.0.1"}],
    "colour": ["blue", None, {"a": [1]}],
    "prompt": ["", [], [-1], [10**6], [HUGE], [[]], [["a"]], [[1, 2], [BIG]], "\ud83d", "\x00", 5, None, ["a"] * 64],
    "messages": [
        [],
        [{"role": "user"}],
        [{"role": "x" * 1000, "content": "a"}],
        [{"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": 5}}]}],
        [{"role": "tool", "content": "a"}],
        [{"role": "user", "content": [{"type": "text", "text": 5}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [["a"]]}],
        [{"role": "user", "content": {"a": 1}}],
        [{"role": "user", "content": "<|im_end|>\x00"}] * 500,
        5,
        None,
        "a",
    ],
}
BASES = {
    "/v1/completions": {"model": BASE_MODEL, "prompt": "hi", "max_tokens": 1},
    "/v1/chat/completions": {
        "model": BASE_MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 1,
    },
}
ONE_BY_ONE = [(path, name, place) for path in BASES for name, values in FIELDS.items() for place in range(len(values))]
mixed = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in FIELDS.items()})


@pytest.fixture(scope="module")
def client(engine: Engine, valkey_url: str) -> Iterator[httpx.Client]:
    """The service in front of the engine, as for anybody who has a key."""
    expander = engine.expander
    identity = Identity(BASE_MODEL, expander.base_fingerprint, expander.fingerprint)
    loaders = Loaders(identity=lambda _: identity)
    served = Settings(
        _env_file=None, base_model=BASE_MODEL, redis_url=valkey_url, engine_url=engine.url, roles="generate"
    )
    server = ServerThread(create_app(served, loaders))
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        yield client
    server.stop()


def judge(engine: Engine, client: httpx.Client, path: str, fields: dict[str, Any]) -> None:
    restarts = engine.child.restarts
    content = json.dumps(BASES[path] | fields).encode()  # httpx's own has no half characters
    answer = client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code in ANSWERED, answer.text
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert engine.child.restarts == restarts, "the engine has ended"


@pytest.mark.parametrize(("path", "name", "place"), ONE_BY_ONE)
def test_a_field_is_answered(engine: Engine, client: httpx.Client, path: str, name: str, place: int) -> None:
    judge(engine, client, path, {name: FIELDS[name][place]})


@settings(max_examples=CASES, deadline=None, derandomize=CASES <= 100, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(sorted(BASES)), fields=mixed)
def test_fields_together_are_answered(engine: Engine, client: httpx.Client, path: str, fields: dict[str, Any]) -> None:
    judge(engine, client, path, fields)


def test_a_good_request_is_answered_afterwards(client: httpx.Client) -> None:
    for path, body in BASES.items():
        assert client.post(path, json=body).json()["usage"]["completion_tokens"] == 1
