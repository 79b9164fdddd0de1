"""Adapter against document in the prompt: what a user would do instead.

    python -m bench.prompt

For each length, questions about documents: (a) the document in the prompt, cold; (b) the same again, the engine's prefix
cache warm; (c) its adapter, warm; (d) an adapter that the engine has never seen, from Redis. The break-even is the number of
questions after which contextualizing has paid for itself, in seconds of this machine with nothing else running.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bench.common import Benchmark, Profile, main, median, shipped_config
from bench.load import Answer, ask, at_once, contextualize, document, question
from bench.stack import Stack

WAYS = ("prompt, cold", "prompt, warm prefix", "adapter, warm", "adapter, from Redis")
IN_FLIGHT = 16


@dataclass(frozen=True)
class Sizes:
    tokens: dict[int, int]  # of a document: rounds
    answer_tokens: int


async def measure(stack: Stack | None, sizes: Sizes) -> dict[str, Any]:
    assert stack is not None
    await ask(stack.client, stack.model, question(0), 4)
    by_tokens = {}
    for tokens, rounds in sizes.tokens.items():
        by_tokens[str(tokens)] = await _measure_length(stack, tokens, rounds, sizes.answer_tokens)
    return {"answer_tokens": sizes.answer_tokens, "by_tokens": by_tokens}


async def _measure_length(stack: Stack, tokens: int, rounds: int, answer_tokens: int) -> dict[str, Any]:
    """One document for each round; the ways take turns."""
    answers: dict[str, list[Answer]] = {way: [] for way in WAYS}
    contextualize_s, made = [], {}
    texts = [document(20_000 + 100 * tokens + i, tokens) for i in range(rounds)]
    for number, text in enumerate(texts):
        made = await contextualize(stack.client, text)
        contextualize_s.append(sum(made["timings_ms"].values()) / 1000)
        for way, model, prompt in (
            (WAYS[0], stack.model, f"{text}\n\n{question(number)}"),
            (WAYS[3], made["id"], question(number)),
            (WAYS[1], stack.model, f"{text}\n\n{question(number + 1)}"),
            (WAYS[2], made["id"], question(number + 1)),
        ):
            answers[way].append(await ask(stack.client, model, prompt, answer_tokens))
    text = texts[-1]
    rates = await _rates(stack, text, made["id"], answer_tokens, max(2, rounds))
    found = {way: _figures(answers[way]) for way in WAYS}
    spent = median(contextualize_s)
    return {
        "tokens": made["tokens"],
        "contextualize_s": spent,
        "ways": found,
        "tokens_per_s_in_flight": {str(IN_FLIGHT): rates},
        "adapter_bytes": made["bytes"],
        "kv_bytes": made["tokens"] * kv_bytes_per_token(),
        "break_even_questions": {
            "cold": _break_even(spent, found[WAYS[0]]["total_s"], found[WAYS[2]]["total_s"]),
            # Reading the document into the prefix cache costs too: once, like contextualizing.
            "warm": _break_even(
                spent - (found[WAYS[0]]["total_s"] - found[WAYS[1]]["total_s"]),
                found[WAYS[1]]["total_s"],
                found[WAYS[2]]["total_s"],
            ),
        },
    }


async def _rates(stack: Stack, text: str, adapter: str, answer_tokens: int, rounds: int) -> dict[str, float]:
    """tokens/s of requests in flight about one document, the two ways in turns; answers are sent whole, so that it is the
    engine's work that is compared and not that of sending tokens."""
    loads = {
        WAYS[1]: [(stack.model, f"{text}\n\n{question(i)}") for i in range(IN_FLIGHT)],
        WAYS[2]: [(adapter, question(i)) for i in range(IN_FLIGHT)],
    }
    rates: dict[str, list[float]] = {way: [] for way in loads}
    for _ in range(rounds):
        for way, load in loads.items():
            rates[way].append((await at_once(stack.client, load, answer_tokens, stream=False))[0])
    return {way: median(values) for way, values in rates.items()}


def _figures(answers: list[Answer]) -> dict[str, float]:
    return {
        "first_token_s": median([a.first_token_s for a in answers]),
        "total_s": median([a.total_s for a in answers]),
        "tokens_per_s": median([a.tokens / a.total_s for a in answers]),
        "prompt_tokens": median([a.prompt_tokens for a in answers]),
    }


def _break_even(spent_s: float, prompt_s: float, adapter_s: float) -> int | None:
    """None: never."""
    if spent_s <= 0:
        return 0
    return math.ceil(spent_s / (prompt_s - adapter_s)) if prompt_s > adapter_s else None


def kv_bytes_per_token() -> int:
    """Keys and values of all layers in the engine's bf16, from the base model's shape."""
    from transformers import AutoConfig

    from generator.base_model import resolve_base_model

    config = AutoConfig.from_pretrained(resolve_base_model(shipped_config().base_model)).get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers * config.num_key_value_heads * head * 2 * 2)


def summary(results: dict[str, Any]) -> dict[str, float]:
    found = results["by_tokens"].get("2048")
    if found is None:
        return {}
    ways, rates = found["ways"], found["tokens_per_s_in_flight"][str(IN_FLIGHT)]
    return {
        "ttft_adapter_over_prompt_cold_2k": ways[WAYS[2]]["first_token_s"] / ways[WAYS[0]]["first_token_s"],
        "tokens_per_s_adapter_over_warm_prefix_2k": rates[WAYS[2]] / rates[WAYS[1]],
        "bytes_adapter_over_kv_2k": found["adapter_bytes"] / found["kv_bytes"],
    }


def rows(results: dict[str, Any]) -> list[tuple[object, ...]]:
    table: list[tuple[object, ...]] = []
    for length, r in results["by_tokens"].items():
        rates = r["tokens_per_s_in_flight"][str(IN_FLIGHT)]
        for way, f in r["ways"].items():
            table.append((length, way, f["first_token_s"], f["tokens_per_s"], rates.get(way, "")))
        even = r["break_even_questions"]
        table.append((length, f"break-even after {even['cold']} questions (warm prefix: {even['warm']})", "", "", ""))
    return table


def plot(results: dict[str, Any], axes: Any) -> None:
    lengths = list(results["by_tokens"])
    for way in WAYS:
        values = [results["by_tokens"][length]["ways"][way]["first_token_s"] for length in lengths]
        axes.plot([int(length) for length in lengths], values, marker="o", label=way)
    axes.set(title="Time to first token", xlabel="tokens of the document", ylabel="seconds", xscale="log", yscale="log")
    axes.legend()


BENCHMARK = Benchmark(
    "prompt",
    __doc__,
    Profile(
        cpu=Sizes({512: 5, 2048: 5, 7500: 2}, answer_tokens=32),
        gpu=Sizes({512: 9, 2048: 9, 7500: 5, 30000: 3}, answer_tokens=64),
        quick=Sizes({64: 1}, answer_tokens=2),
    ),
    measure,
    ("document", "way", "first token, s", "tokens/s alone", f"tokens/s, {IN_FLIGHT} in flight"),
    rows,
    summary,
    plot,
)

if __name__ == "__main__":
    main(BENCHMARK)
