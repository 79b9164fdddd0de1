"""What answers in an evaluation, in process and served: prompts that begin alike give what they give alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from generator.evaluation import engines, finetuning
from generator.evaluation.costs import Shape, generating
from generator.evaluation.engines import InProcess
from generator.evaluation.items import Asked
from generator.evaluation.rows import Row, Rows
from generator.evaluation.served import Served, ServiceError
from generator.generator import Generator

END = 1


def test_prompts_that_begin_alike_give_what_they_give_alone(tiny_generator: Callable[..., Generator]) -> None:
    generator = tiny_generator()
    rng = random.Random(3)
    prefix, *prompts = ([rng.randrange(2, 64) for _ in range(n)] for n in (30, 3, 1, 6))
    lora, rows = generator.contextualize(prefix[:20]).lora(), Rows(generator.base, generator.config.scaling)
    alone = [Row(prefix + prompt, [5, 9, 7], lora) for prompt in prompts]
    with rows.read(prefix, lora) as read:
        losses = [read.losses(prompt, [5, 9, 7]) for prompt in prompts]
        made = [read.continuation(prompt, 5, END) for prompt in prompts]
        with read.further(prompts[2][:-1]) as there:
            further = [there.losses(prompts[2][-1:], [5, 9, 7]) for _ in range(2)]
        losses.append(read.losses(prompts[0], [5, 9, 7]))
    assert made == rows.continuations(alone, 5, END)
    for found, expected in zip([*losses, *further], rows.losses([*alone, alone[0], alone[2], alone[2]]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_fine_tuning_learns_the_document(
    tiny_generator: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = tiny_generator()
    monkeypatch.setattr(finetuning, "_RATE", 1e-2)
    rng = random.Random(4)
    ids = [rng.randrange(2, 64) for _ in range(40)]
    short, long = finetuning.tune(generator.base, ids, generator.config.scaling, seconds=0.0)
    rows = Rows(generator.base, generator.config.scaling)
    none, first, last = rows.losses(
        [Row(ids[:1], ids[1:]), Row(ids[:1], ids[1:], short.lora), Row(ids[:1], ids[1:], long.lora)]
    )
    assert short.passes == 1 < long.passes
    assert last.mean() < first.mean() < none.mean()
    assert last.mean() < none.mean() - 0.3


def test_formulas_count_the_weights_of_the_model(tiny_generator: Callable[..., Generator]) -> None:
    generator = tiny_generator()
    shape = Shape.of(generator.base.config)
    matrices = [p for n, p in generator.base.named_parameters() if "layers" in n and p.dim() == 2]
    assert shape.layers * shape.layer_weights == sum(p.numel() for p in matrices)
    assert shape.reading(7) + shape.reading(5, before=7) == pytest.approx(shape.reading(12))
    assert generating(shape, generator.config, 64) > shape.reading(16, layers=generator.config.last_layer) * 4


def test_a_service_is_asked_what_the_model_would_be(tiny_generator: Callable[..., Generator]) -> None:
    generator, bodies = tiny_generator(), list[dict[str, Any]]()

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        if len(bodies) == 1:
            return httpx.Response(429, headers={"retry-after": "0"})
        if request.url.path == "/contextualize":
            return httpx.Response(201, json={"id": "ga-1", "tokens": 5, "bytes": 77})
        choices, usage = [{"index": 0, "text": "pier 14"}], {"prompt_tokens": 9, "completion_tokens": 3}
        return httpx.Response(200, json={"choices": choices, "usage": usage})

    client = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service")
    served = Served(client, generator.config, None, generator.base.config)
    made = served.contextualize("The Orchid is moored at pier 14.")
    asked = Asked("chat", "Where?", ["pier 14"])
    plain, informed = served.ask([asked, asked], ["", "The Orchid."], made.handle, 24)
    assert (plain.text, plain.made_tokens, made.stored_bytes) == ("pier 14", 3, 77)
    assert bodies[0] == bodies[1] == {"text": "The Orchid is moored at pier 14."}
    assert [body["messages"][0]["content"] for body in bodies[2:]] == ["Where?", "The Orchid.\n\nWhere?"]
    assert bodies[2]["adapter_id"] == "ga-1"
    assert bodies[2]["temperature"] == 0
    assert informed.loss is None


def test_what_a_service_refuses_ends_the_run(tiny_generator: Callable[..., Generator]) -> None:
    generator = tiny_generator()
    client = httpx.Client(
        transport=httpx.MockTransport(lambda _: httpx.Response(413, text="too long")), base_url="http://s"
    )
    with pytest.raises(ServiceError, match="413"):
        Served(client, generator.config, None, generator.base.config).contextualize("x")


class Letters:
    """A tokenizer's stand-in for the whole engine: one id a character."""

    chat_template = None
    bos_token_id, eos_token_id = 0, END

    def __call__(self, text: str, add_special_tokens: bool) -> Any:
        return SimpleNamespace(input_ids=[2 + ord(character) % 60 for character in text])

    def get_vocab(self) -> dict[str, int]:
        return {}

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))


def test_sharing_the_reading_changes_no_reply(
    tiny_generator: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = tiny_generator()
    generator.tokenizer = Letters()  # type: ignore[assignment]
    engine = InProcess(generator)
    adapter = engine.contextualize("The Orchid III is moored at pier 14.").handle
    chats = [
        Asked("chat", text, [answer]) for text, answer in (("Where is she?", "pier 14"), ("Who?", "Ida"), ("What?", ""))
    ]
    document = "The Orchid III is moored at pier 14, and her captain is Ida Marsh, who likes tea."
    together = engine.ask(chats, [document] * 3, adapter, 6)
    monkeypatch.setattr(engines, "_SHARED_TOKENS", 10_000)
    apart = engine.ask(chats, [document] * 3, adapter, 6)
    assert [(reply.text, reply.loss_tokens) for reply in together] == [
        (reply.text, reply.loss_tokens) for reply in apart
    ]
    for one, other in zip(together[:2], apart[:2], strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)

    raw = Asked("raw", "Input: 1\nOutput:", ["even"], ["even", "odd"])
    (chosen,) = engine.ask([raw], ["Input: 2\nOutput: even"], adapter, 6)
    prompt = [0, *engine.prompts.tokenize("Input: 2\nOutput: even\n\nInput: 1\nOutput:")]
    rows = [Row(prompt, engine.prompts.tokenize(f" {option}"), adapter) for option in raw.options]
    even, odd = (losses.mean().item() for losses in engine.rows.losses(rows))
    assert chosen.chosen == ("even" if even < odd else "odd")
