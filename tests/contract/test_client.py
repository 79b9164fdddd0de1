"""The Python client against a running service: the same steps with Client and with AsyncClient."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from service.client import ApiError, AsyncClient, Client
from tests.contract.conftest import Service

UNKNOWN = "ga-" + "0" * 32


def test_an_adapter_from_making_to_deleting(service: Service, tmp_path: Path) -> None:
    (tmp_path / "note.md").write_text("what the client's note says")
    with Client(service.url) as client:
        made = client.contextualize(
            files=[tmp_path / "note.md", ("more.txt", b"and more")],
            ttl_seconds=600,
            metadata={"a": "b"},
            keep_state=True,
            strategy="parallel",
        )
        assert (made.metadata, made.strategy, made.state_expires_at is None) == ({"a": "b"}, "parallel", False)
        grown = client.append(made.id, messages=[{"role": "user", "content": "a turn"}])
        assert (grown.parent, grown.tokens) == (made.id, made.tokens + 3)
        titled = client.contextualize(documents=[{"title": "T", "text": "titled by the client"}])
        assert [item.id for item in client.adapters()][:3] == [titled.id, grown.id, made.id]
        assert client.get(made.id).metadata == {"a": "b"}
        client.delete(made.id)
        with pytest.raises(ApiError, match="No such adapter") as refused:
            client.get(made.id)
        assert (refused.value.status, refused.value.code) == (404, "adapter_not_found")


def test_the_same_awaited(service: Service, tmp_path: Path) -> None:
    async def steps() -> None:
        async with AsyncClient(service.url) as client:
            made = await client.contextualize(text="awaited by the client", keep_state=True)
            grown = await client.append(made.id, text="and more", keep_state=False)
            assert (grown.parent, grown.state_expires_at) == (made.id, None)
            assert [item.id async for item in client.adapters()][:2] == [grown.id, made.id]
            assert (await client.get(grown.id)).tokens == 6
            await client.delete(grown.id)
            with pytest.raises(ApiError, match="No such adapter"):
                await client.export_peft(grown.id, tmp_path)

    asyncio.run(steps())


def test_an_id_is_one_part_of_the_address(service: Service) -> None:
    with Client(service.url) as client, pytest.raises(ApiError) as refused:
        client.get("../healthz")
    assert refused.value.status == 404


class Busy(httpx.MockTransport):
    """Answers with the given statuses and Retry-After, then with an adapter that is not there."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.answers, self.asked = list(answers), 0
        super().__init__(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if not self.answers:
            return httpx.Response(204)
        status, retry_after = self.answers.pop(0)
        return httpx.Response(status, headers={"Retry-After": retry_after}, json={"error": {"message": "busy"}})


@pytest.mark.parametrize(
    ("answers", "asked", "slept"),
    [
        ([(429, "2"), (503, "3")], 3, [2.0, 3.0]),
        ([(429, "0")], 2, [0.1]),
        ([(429, "8"), (429, "8")], 2, [8.0]),  # a second wait would be longer than the patience
        ([(429, "3600")], 1, []),
        ([(429, "Mon, 23 Nov 2026 00:00:00 GMT")], 1, []),
        ([(500, "1")], 1, []),
    ],
)
def test_a_busy_service_is_asked_again_when_it_says_so(
    answers: Any, asked: int, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    # In the client alone: the service of these tests sleeps in this process too.
    monkeypatch.setattr("service.client.time", SimpleNamespace(sleep=pauses.append))
    monkeypatch.setattr("service.client.asyncio", SimpleNamespace(sleep=pause))
    fails = asked <= len(answers)
    transport = Busy(*answers)
    with Client(http=httpx.Client(transport=transport, base_url="http://x"), patience_s=10) as client:
        refused(client.delete, fails)
    assert (transport.asked, pauses) == (asked, slept)
    pauses.clear()
    transport = Busy(*answers)
    waiting = AsyncClient(http=httpx.AsyncClient(transport=transport, base_url="http://x"), patience_s=10)
    refused(lambda name: asyncio.run(waiting.delete(name)), fails)
    assert (transport.asked, pauses) == (asked, slept)


def refused(call: Any, fails: bool) -> None:
    if not fails:
        call(UNKNOWN)
        return
    with pytest.raises(ApiError, match="busy"):
        call(UNKNOWN)
