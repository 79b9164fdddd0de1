"""Documents whose adapters are known: what each of them, and nobody else, answers."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chaos.judge import Marker, is_same, marker

PER_TENANT = {"acme": 7, "beta": 3}
PROMPT = "The harbour of"
TOKENS = 3
LOGPROBS = 5
WORDS = ["amber", "basalt", "cedar", "dune", "ember", "fjord", "granite", "hazel", "indigo", "juniper"]


class TooMuchAlike(RuntimeError):
    """Answers that cannot tell one adapter from another would prove nothing."""


@dataclass(eq=False)
class Document:
    """`state` is what the service has promised: "there" (acknowledged), "gone" (deletion acknowledged), "unknown" (a change of
    it failed or is under way). `version` grows with every change, so that an answer from before is not held against it."""

    tenant: str
    text: str
    id: str = ""
    expected: Marker = ()
    state: str = "unknown"
    version: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def becomes(self, state: str) -> None:
        self.state = state
        self.version += 1


def all_documents() -> list[Document]:
    """Short, and far from each other."""
    found = []
    for number, tenant in enumerate(name for name, count in PER_TENANT.items() for _ in range(count)):
        word = WORDS[number]
        text = " ".join(
            f"In {1700 + 13 * number + line} the {word} keeper wrote {word} {line * 7 % 11} times." for line in range(6)
        )
        found.append(Document(tenant, text))
    return found


def question(adapter: str | None) -> dict[str, Any]:
    """The body of POST /generate whose answer is compared."""
    return {"adapter_id": adapter, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "logprobs": LOGPROBS}


def answer_of(response: httpx.Response) -> Marker:
    return marker(response.json()["choices"][0]["logprobs"]["content"])


async def record(clients: dict[str, httpx.AsyncClient], documents: list[Document]) -> Marker:
    """Makes all adapters and records what they answer when all is quiet; the bare model's answer. Raises TooMuchAlike."""
    for document in documents:
        made = await clients[document.tenant].post("/contextualize", json={"text": document.text})
        made.raise_for_status()
        document.id = made.json()["id"]
        document.expected = answer_of(
            (await clients[document.tenant].post("/generate", json=question(document.id))).raise_for_status()
        )
        document.becomes("there")
    client = next(iter(clients.values()))
    bare = answer_of((await client.post("/generate", json=question(None))).raise_for_status())
    for one, other in itertools.combinations([*(document.expected for document in documents), bare], 2):
        if is_same(one, other) or is_same(other, one):
            raise TooMuchAlike(f"{one} and {other}")
    return bare
