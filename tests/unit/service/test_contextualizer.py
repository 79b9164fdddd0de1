"""The queue in front of the generator: batches, their limits, and what becomes of failed and abandoned work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.backend import SLICE_CHARS, BackendHolder
from service.contextualizer import Contextualizer, Reading
from service.errors import Busy, GeneratorUnavailable, NoState, ServerFault, Stopping, TooLarge
from service.metrics import Metrics
from service.settings import Settings
from tests.contract.doubles import POISON, FakeBackend, token_of


def with_contextualizer(
    use: Callable[[Contextualizer, FakeBackend], Awaitable[None]], batch_tokens: int = 8_192, **settings: Any
) -> None:
    async def run() -> None:
        backend = FakeBackend()
        backend.batch_tokens = batch_tokens
        holder = BackendHolder(lambda: backend)
        contextualizer = Contextualizer(holder, Settings(_env_file=None, **settings), Metrics())
        with pytest.raises(GeneratorUnavailable):
            await contextualizer.encode(Reading([1], "concat"))
        contextualizer.start()
        await contextualizer._tasks[0]  # the loading
        try:
            await use(contextualizer, backend)
        finally:
            backend.open.set()
            await contextualizer.close(5)

    asyncio.run(run())


async def held(
    contextualizer: Contextualizer, backend: FakeBackend, *documents: list[int], strategy: str = "concat"
) -> list[Any]:
    """The first document is in the generator, which is held up; the others wait."""
    backend.open.clear()
    tasks = []
    for ids in documents:
        tasks.append(asyncio.create_task(contextualizer.encode(Reading(ids, strategy))))
        await asyncio.sleep(0.02)
    return tasks


def test_what_waits_goes_together_while_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(contextualizer: Contextualizer, backend: FakeBackend) -> None:
        tasks = await held(contextualizer, backend, [1], [1] * 4, [2] * 3, [3] * 5, [4] * 9)
        other = asyncio.create_task(contextualizer.encode(Reading([5], "parallel")))
        await asyncio.sleep(0.02)
        backend.open.set()
        results = [await task for task in (*tasks, other)]
        # 4 and 3 make 2 x 4 with padding; 5 more would make 3 x 5. 9 is too long for company, and goes alone.
        assert backend.batches == [[1], [4, 3], [5], [9], [1]]
        assert [result.tokens for result in results] == [1, 4, 3, 5, 9, 1]
        assert all(result.queue_ms >= 0 for result in results)
        assert results[1].queue_ms > 30

    with_contextualizer(use, batch_tokens=10)


def test_where_documents_share_no_pass_each_is_answered_at_the_end_of_its_own() -> None:
    async def use(contextualizer: Contextualizer, backend: FakeBackend) -> None:
        tasks = await held(contextualizer, backend, [1], [2], [3])
        backend.open.set()
        await asyncio.gather(*tasks)
        assert backend.batches == [[1], [1], [1]]

    with_contextualizer(use, batch_tokens=1)


def test_a_document_that_fails_does_not_fail_its_neighbours() -> None:
    async def use(contextualizer: Contextualizer, backend: FakeBackend) -> None:
        tasks = await held(contextualizer, backend, [1], [2], [token_of(POISON)], [3])
        backend.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, ServerFault) for result in results] == [False, False, True, False]
        assert backend.batches == [[1], [1, 1, 1], [1], [1], [1]]

    with_contextualizer(use)


def test_abandoned_work_is_dropped_and_its_place_is_free() -> None:
    async def use(contextualizer: Contextualizer, backend: FakeBackend) -> None:
        tasks = await held(contextualizer, backend, [1], [2] * 2, [3] * 3)
        with pytest.raises(Busy) as caught:
            await contextualizer.encode(Reading([4], "concat"))
        assert caught.value.retry_after_s >= 1
        tasks[1].cancel()
        await asyncio.sleep(0.01)
        fourth = asyncio.create_task(contextualizer.encode(Reading([4] * 4, "concat")))
        await asyncio.sleep(0.01)
        backend.open.set()
        await asyncio.gather(tasks[0], tasks[2], fourth)
        assert [length for batch in backend.batches for length in batch] == [1, 3, 4], (
            "nobody computed the one that was abandoned"
        )

    with_contextualizer(use, max_queue=2)


def test_a_pass_that_nobody_waits_for_ends_at_its_next_chunk() -> None:
    async def use(contextualizer: Contextualizer, backend: FakeBackend) -> None:
        tasks = await held(contextualizer, backend, [1])
        tasks[0].cancel()
        await asyncio.sleep(0.01)
        backend.open.set()
        assert (await contextualizer.encode(Reading([2] * 2, "concat"))).tokens == 2
        assert backend.batches == [[2]], "the first one ended before it was read"

    with_contextualizer(use)


def test_a_state_is_gone_on_from_and_a_parent_without_one_fails_alone() -> None:
    async def use(contextualizer: Contextualizer, backend: FakeBackend) -> None:
        async def state() -> bytes:
            return first.state or b""

        async def gone() -> bytes:
            raise NoState

        first = await contextualizer.encode(Reading([1, 2], "concat", keep_state=True))
        tasks = await held(contextualizer, backend, [9])
        child = asyncio.create_task(contextualizer.encode(Reading([3], "concat", parent_state=state)))
        orphan = asyncio.create_task(contextualizer.encode(Reading([4], "concat", parent_state=gone)))
        await asyncio.sleep(0.01)
        backend.open.set()
        found = await asyncio.gather(*tasks, child, orphan, return_exceptions=True)
        assert (found[1].tokens, found[1].state) == (3, None)
        assert isinstance(found[2], NoState)

    with_contextualizer(use)


def test_stopping_finishes_what_it_can_and_tells_the_rest() -> None:
    async def use(contextualizer: Contextualizer, backend: FakeBackend) -> None:
        tasks = await held(contextualizer, backend, [1], [2])
        closing = asyncio.create_task(contextualizer.close(0.2))
        await asyncio.sleep(0.01)
        with pytest.raises(Stopping):
            await contextualizer.encode(Reading([3], "concat"))
        await closing
        for task in tasks:
            with pytest.raises(Stopping):
                await task

    with_contextualizer(use)


@pytest.mark.parametrize("answers_in_time", [True, False])
def test_a_stop_while_a_parents_state_is_fetched_answers_all_who_wait(answers_in_time: bool) -> None:
    async def use(contextualizer: Contextualizer, backend: FakeBackend) -> None:
        asked, answered = asyncio.Event(), asyncio.Event()

        async def slow_state() -> bytes:
            asked.set()
            await answered.wait()
            return parent.state or b""

        parent = await contextualizer.encode(Reading([1, 2], "concat", keep_state=True))
        tasks = await held(contextualizer, backend, [9])
        readings = (Reading([3], "concat", parent_state=slow_state), Reading([4], "concat"))  # one batch
        waiting = [asyncio.create_task(contextualizer.encode(reading)) for reading in readings]
        await asyncio.sleep(0.01)
        backend.open.set()
        await asyncio.gather(*tasks, asked.wait())
        closing = asyncio.create_task(contextualizer.close(60 if answers_in_time else 0.05))
        await asyncio.sleep(0)
        if answers_in_time:
            answered.set()
        async with asyncio.timeout(10):  # nobody is left waiting
            results: list[Any] = await asyncio.gather(*waiting, return_exceptions=True)
            await closing
        if answers_in_time:
            assert [result.tokens for result in results] == [3, 1]
        else:
            assert [type(result) for result in results] == [Stopping, Stopping]

    with_contextualizer(use)


def test_a_text_far_too_long_is_refused_after_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(contextualizer: Contextualizer, backend: FakeBackend) -> None:
        read: list[int] = []
        tokenize = backend.tokenize
        monkeypatch.setattr(backend, "tokenize", lambda text: (read.append(len(text)), tokenize(text))[1])
        with pytest.raises(TooLarge, match="about 5000000 tokens"):
            await contextualizer.tokenize("w " * 5_000_000)
        assert sum(read) == SLICE_CHARS
        # Long only in characters: counted whole, and taken.
        assert len(await contextualizer.tokenize(" " * SLICE_CHARS * 2 + "w " * 100)) == 100

    with_contextualizer(use, max_document_tokens=100)
