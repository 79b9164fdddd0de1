"""A steady mix of all that clients do, each answer held against what is known."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable

import httpx

from tests.chaos.documents import Document, answer_of, question
from tests.chaos.judge import Marker, Tally, is_same, is_same_weights, marker, weights

WORKERS = 4
PAUSE_S = (0.0, 0.3)
# After a refusal: shorter than Retry-After asks for, so that the recovery is met.
REFUSED_PAUSE_S = (0.2, 1.0)
FIT_SHARE = 0.85
MAKES = frozenset({"create", "append"})
# How long after a fault an answer may still be its consequence.
QUIET_S = 3.0


class Load:
    """`is_quiet`: whether nothing is wrong with the parts; refusals are counted apart then."""

    def __init__(
        self,
        clients: dict[str, httpx.AsyncClient],
        documents: list[Document],
        bare: Marker,
        is_quiet: Callable[[], bool] = lambda: True,
    ) -> None:
        self.clients, self.documents, self.bare, self.is_quiet = clients, documents, bare, is_quiet
        self.tally = Tally()
        self.operations: dict[str, tuple[int, Callable[[Document, random.Random], Awaitable[None]]]] = {
            "ask": (40, self.ask),
            "stream": (12, self.stream),
            "openai": (8, self.openai),
            "bare": (6, self.ask_bare),
            "create": (14, self.create),
            "append": (8, self.create),
            "peft": (6, self.peft),
            "upload": (4, self.upload),
            "delete": (6, self.delete),
            "show": (4, self.show),
            "list": (4, self.list),
            "foreign": (5, self.foreign),
            "vanish": (5, self.vanish),
        }

    async def run(self, until_s: float, seed: int) -> None:
        """Until a time (monotonic)."""
        await asyncio.gather(*(self._work(until_s, random.Random(f"{seed} {number}")) for number in range(WORKERS)))

    async def complete(self) -> None:
        """Everything that the load ever makes is there afterwards: what the store then takes can be compared."""
        chance = random.Random(0)
        for document in self.documents:
            await self.create(document, chance)
            await self.upload(document, chance)

    async def _work(self, until_s: float, chance: random.Random) -> None:
        names, weights = zip(*((name, weight) for name, (weight, _) in self.operations.items()), strict=True)
        while time.monotonic() < until_s:
            name = chance.choices(names, weights)[0]
            document = self._choose(name, chance)
            was_quiet = self.is_quiet()
            refused = self._refused()
            try:
                await self.operations[name][1](document, chance)
            except httpx.TimeoutException:
                self.tally.note("contract_violations", f"{name}: no answer in time")
            except httpx.TransportError as error:
                self.tally.note("contract_violations", f"{name}: the connection broke ({type(error).__name__})")
            if was_quiet and self.is_quiet() and self._refused() > refused:
                self.tally.refused_when_quiet += 1
            pause = PAUSE_S if self._refused() == refused else REFUSED_PAUSE_S
            await asyncio.sleep(chance.uniform(*pause))

    def _choose(self, name: str, chance: random.Random) -> Document:
        """Most often one that is there: only its answer can be wrong. What makes adapters takes those that are not there."""
        able = [one for one in self.documents if one.parent is not None] if name == "append" else self.documents
        fit = [one for one in able if (one.state == "there") != (name in MAKES)]
        return chance.choice(fit if fit and chance.random() < FIT_SHARE else able)

    def _refused(self) -> int:
        return sum(count for status, count in self.tally.statuses.items() if status in (429, 503, 504))

    def _compare(self, operation: str, document: Document, found: Marker) -> None:
        self.tally.compared += 1
        if is_same(found, document.expected):
            return
        others = [other.text.split()[3] for other in self.documents if is_same(found, other.expected)]
        whose = "the bare model's" if is_same(found, self.bare) else f"that of {others}" if others else "nobody's"
        self.tally.note("wrong_answers", f"{operation} of {document.id}: the answer is {whose}: {found}")

    def _missing(self, operation: str, document: Document, seen: tuple[str, int], response: httpx.Response) -> None:
        """A 404, or a 409 for lack of a state, for what was promised is a loss."""
        if response.status_code in (404, 409) and seen == ("there", document.version):
            self.tally.note("lost_adapters", f"{operation} of {document.id}: {response.text[:200]}")

    def _present(self, operation: str, document: Document, seen: tuple[str, int], response: httpx.Response) -> None:
        """An answer of what was deleted must not be."""
        if response.is_success and seen == ("gone", document.version):
            self.tally.note("contract_violations", f"{operation}: {document.id} was deleted, and answers")

    async def ask(self, document: Document, chance: random.Random) -> None:
        seen = document.seen
        response = await self.clients[document.tenant].post("/generate", json=question(document.id))
        if self.tally.check("ask", response, {200}):
            self._compare("ask", document, answer_of(response))
            self._present("ask", document, seen, response)
        self._missing("ask", document, seen, response)

    async def ask_bare(self, document: Document, chance: random.Random) -> None:
        response = await self.clients[document.tenant].post("/generate", json=question(None))
        if self.tally.check("bare", response, {200}):
            self.tally.compared += 1
            if not is_same(answer_of(response), self.bare):
                self.tally.note("wrong_answers", f"the bare model answers {answer_of(response)}")

    async def stream(self, document: Document, chance: random.Random) -> None:
        seen = document.seen
        body = question(document.id) | {"stream": True}
        async with self.clients[document.tenant].stream("POST", "/generate", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                self.tally.check("stream", response, {200})
                self._missing("stream", document, seen, response)
                return
            self.tally.check("stream", response, {200})
            lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
        events = [json.loads(line) for line in lines if line != "[DONE]"]
        pieces = [choice for event in events for choice in event.get("choices", ())]
        found = marker([item for choice in pieces for item in choice["logprobs"]["content"]])
        if found:
            self._compare("stream", document, found)
        if lines[-1:] != ["[DONE]"] and "error" not in (events or [{}])[-1]:
            self.tally.note("contract_violations", f"stream: it broke off without a word after {len(events)} events")

    async def openai(self, document: Document, chance: random.Random) -> None:
        seen = document.seen
        body = question(None) | {"model": document.id}
        del body["adapter_id"]
        response = await self.clients[document.tenant].post("/v1/completions", json=body)
        if self.tally.check("openai", response, {200}):
            positions = response.json()["choices"][0]["logprobs"]["top_logprobs"]
            self._compare("openai", document, tuple(positions))
        self._missing("openai", document, seen, response)

    async def peft(self, document: Document, chance: random.Random) -> None:
        seen = document.seen
        response = await self.clients[document.tenant].get(f"/adapters/{document.id}/peft")
        if self.tally.check("peft", response, {200}):
            self.tally.compared += 1
            found = await asyncio.to_thread(weights, response.content)
            if not is_same_weights(found, document.weights):
                self.tally.note("wrong_answers", f"peft of {document.id}: other weights")
            self._present("peft", document, seen, response)
        self._missing("peft", document, seen, response)

    async def create(self, document: Document, chance: random.Random) -> None:
        """From its text, or by appending that to its parent."""
        async with document.lock:
            before, parent = document.state, document.parent
            parent_seen = parent and parent.seen
            document.becomes("there" if before == "there" else "unknown")
            body = document.body | {"ttl_seconds": chance.choice([3600, 86400])}
            response = await self.clients[document.tenant].post(document.path, json=body)
            operation, expected = ("create", {200, 201}) if parent is None else ("append", {200, 201, 404, 409})
            if not self.tally.check(operation, response, expected):
                return
            if parent and parent_seen:
                self._present("append", parent, parent_seen, response)
                self._missing("append", parent, parent_seen, response)
            if not response.is_success:
                return
            if (made := response.json().get("id")) != document.id:
                self.tally.note("wrong_answers", f"{document.id} is now {made}")
            if response.status_code == 201 and before == "there":
                self.tally.note("lost_adapters", f"{document.id} was there, and had to be made again")
            document.becomes("there")

    async def upload(self, document: Document, chance: random.Random) -> None:
        """By way of the parser; another text than the document's, so another adapter."""
        files = {"file": ("a.html", f"<p>{document.text}</p>")}
        response = await self.clients[document.tenant].post("/contextualize", files=files)
        self.tally.check("upload", response, {200, 201})

    async def delete(self, document: Document, chance: random.Random) -> None:
        async with document.lock:
            before = document.state
            document.becomes("unknown")
            response = await self.clients[document.tenant].delete(f"/adapters/{document.id}")
            if self.tally.check("delete", response, {204}):
                document.becomes("gone")
            elif response.status_code == 404:
                if before == "there":
                    self.tally.note("lost_adapters", f"delete of {document.id}: {response.text[:200]}")
                document.becomes("gone")

    async def show(self, document: Document, chance: random.Random) -> None:
        seen = document.seen
        response = await self.clients[document.tenant].get(f"/adapters/{document.id}")
        if self.tally.check("show", response, {200}):
            self._present("show", document, seen, response)
        self._missing("show", document, seen, response)

    async def list(self, document: Document, chance: random.Random) -> None:
        mine = [(one, one.state, one.version) for one in self.documents if one.tenant == document.tenant]
        response = await self.clients[document.tenant].get("/adapters", params={"limit": 100})
        if not self.tally.check("list", response, {200}):
            return
        listed = {item["id"] for item in response.json()["data"]}
        for one, state, version in mine:
            if version != one.version:
                continue
            if state == "there" and one.id not in listed:
                self.tally.note("lost_adapters", f"list: {one.id} is missing")
            if state == "gone" and one.id in listed:
                self.tally.note("contract_violations", f"list: {one.id} was deleted")
        if others := listed & {one.id for one in self.documents if one.tenant != document.tenant}:
            self.tally.note("contract_violations", f"list: {others} are somebody else's")

    async def foreign(self, document: Document, chance: random.Random) -> None:
        other = next(tenant for tenant in self.clients if tenant != document.tenant)
        response = await self.clients[other].post("/generate", json=question(document.id))
        if response.status_code == 200:
            self.tally.note("contract_violations", f"{other} asked the adapter of {document.tenant} and was answered")
        self.tally.check("foreign", response, {404})

    async def vanish(self, document: Document, chance: random.Random) -> None:
        """A client that leaves in the middle: of its answer, or before it."""
        client = self.clients[document.tenant]
        self.tally.requests += 1
        try:
            if chance.random() < 0.5:
                body = question(document.id) | {"stream": True, "max_tokens": 200}
                async with client.stream("POST", "/generate", json=body) as response:
                    async for _ in response.aiter_lines():
                        break
            else:
                await client.post("/generate", json=question(document.id), timeout=chance.uniform(0.01, 0.3))
        except httpx.TransportError:
            pass
