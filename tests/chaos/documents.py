"""Documents whose adapters are known: what each of them, and nobody else, answers."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chaos.judge import Marker, Weights, is_same, is_same_weights, marker, weights

PER_TENANT = {"acme": 7, "beta": 3}
# So many of a tenant's documents are one conversation: the first keeps its state, each next one is appended to the one before.
CONVERSATION = 3
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
    parent: Document | None = None  # its adapter is made by appending to this one's
    keep_state: bool = False
    id: str = ""
    expected: Marker = ()
    weights: Weights = field(default_factory=dict)
    state: str = "unknown"
    version: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def path(self) -> str:
        """Where a POST makes its adapter."""
        return "/contextualize" if self.parent is None else f"/adapters/{self.parent.id}/append"

    @property
    def body(self) -> dict[str, Any]:
        return {"text": self.text, "keep_state": self.keep_state}

    @property
    def seen(self) -> tuple[str, int]:
        """To be held against later: only what nobody has changed meanwhile proves anything."""
        return self.state, self.version

    def becomes(self, state: str) -> None:
        self.state = state
        self.version += 1


def all_documents() -> list[Document]:
    """Short, and far from each other."""
    found: list[Document] = []
    places = [(tenant, place) for tenant, count in PER_TENANT.items() for place in range(count)]
    for number, (tenant, place) in enumerate(places):
        word = WORDS[number]
        text = " ".join(
            f"In {1700 + 13 * number + line} the {word} keeper wrote {word} {line * 7 % 11} times." for line in range(6)
        )
        parent = found[-1] if 0 < place < CONVERSATION else None
        found.append(Document(tenant, text, parent, keep_state=place < CONVERSATION))
    return found


def question(adapter: str | None) -> dict[str, Any]:
    """The body of POST /generate whose answer is compared."""
    return {"adapter_id": adapter, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "logprobs": LOGPROBS}


def answer_of(response: httpx.Response) -> Marker:
    return marker(response.json()["choices"][0]["logprobs"]["content"])


async def record(clients: dict[str, httpx.AsyncClient], documents: list[Document]) -> Marker:
    """Makes all adapters and records what they answer and weigh when all is quiet; the bare model's answer. Raises
    TooMuchAlike."""
    for document in documents:
        client = clients[document.tenant]
        document.id = (await client.post(document.path, json=document.body)).raise_for_status().json()["id"]
        document.expected = answer_of((await client.post("/generate", json=question(document.id))).raise_for_status())
        document.weights = weights((await client.get(f"/adapters/{document.id}/peft")).raise_for_status().content)
        document.becomes("there")
    client = next(iter(clients.values()))
    bare = answer_of((await client.post("/generate", json=question(None))).raise_for_status())
    for one, other in itertools.combinations([*(document.expected for document in documents), bare], 2):
        if is_same(one, other) or is_same(other, one):
            raise TooMuchAlike(f"{one} and {other}")
    for here, there in itertools.combinations(documents, 2):
        if is_same_weights(here.weights, there.weights):
            raise TooMuchAlike(f"the weights of {here.id} and {there.id}")
    return bare
