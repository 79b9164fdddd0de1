"""The engine's client against servers that close connections."""

from __future__ import annotations

import asyncio

import pytest

from service.engine import EngineClient
from service.errors import EngineUnavailable
from service.metrics import Metrics

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@pytest.mark.parametrize("answered", [1, 0], ids=["kept", "new"])
def test_a_connection_that_closes_before_it_answers(answered: int) -> None:
    """`answered`: requests on each connection that get an answer. A kept connection may have had its time: the request is
    sent once more. An engine that answers nothing is not asked for ever."""
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        for number in range(answered + 1):
            if not await reader.readline():
                break
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
            await reader.readexactly(length)
            if number < answered:
                writer.write(ANSWER)
                await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = EngineClient(url, api_key=None, deadline_s=30, max_in_flight=4, metrics=Metrics())
        try:
            for _ in range(3):
                async with client.open("/v1/completions", {"prompt": "hi"}, None) as response:
                    assert await response.json(content_type=None) == {}
        finally:
            await client.close()
            server.close()

    if answered:
        asyncio.run(run())
        assert opened == 3, "each but the first was sent twice"
    else:
        with pytest.raises(EngineUnavailable):
            asyncio.run(run())
        assert opened == 2
