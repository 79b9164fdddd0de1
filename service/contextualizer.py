"""The queue in front of the generator: bounded, in batches by tokens, in one thread beside the event loop.

A job whose client has left is taken out of the queue at once. A batch that fails is tried again job by job, so that
one document cannot fail another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from service.backend import Backend, BackendHolder, count_tokens_in_slices
from service.errors import Busy, GenadapterError, GeneratorUnavailable, ServerFault, Stopping, TooLarge
from service.metrics import Metrics
from service.progress import Abandoned, Progress
from service.settings import Settings

logger = logging.getLogger(__name__)

# Text beyond so many characters for each allowed token is counted in slices before it is tokenized whole.
CHARS_PER_TOKEN = 16
# Bounds of the advice to wait, and the speed that is assumed before the first batch (a small base model on two cores).
MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0
FIRST_GUESS_TOKENS_PER_S = 1000.0


@dataclass(frozen=True)
class Encoded:
    """What the generator made of one document, ready to be stored. Times in milliseconds."""

    payload: bytes
    rank: int
    tokens: int
    chunks: int
    queue_ms: float
    forward_ms: float
    factorize_ms: float
    state: bytes | None = None


@dataclass(frozen=True)
class Reading:
    """What is to be read, and how. `parent_state` brings the state to go on from: at its turn, since states are large."""

    ids: Sequence[int]
    strategy: str
    keep_state: bool = False
    parent_state: Callable[[], Awaitable[bytes]] | None = None


@dataclass(eq=False)
class Job:
    reading: Reading
    future: asyncio.Future[Encoded]
    queued_s: float = field(default_factory=time.perf_counter)
    before: bytes | None = None  # the parent's state, while the job runs

    @property
    def tokens(self) -> int:
        return len(self.reading.ids)


class Contextualizer:
    def __init__(self, holder: BackendHolder, settings: Settings, metrics: Metrics) -> None:
        self._holder = holder
        self._max_queue = settings.max_queue
        self._max_document_tokens = settings.max_document_tokens
        self._metrics = metrics
        self._waiting: deque[Job] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._hurry = False  # a running pass ends at its next chunk
        self._idle = asyncio.Event()
        self._idle.set()
        self._tokens_per_s = FIRST_GUESS_TOKENS_PER_S
        self._generator_thread = ThreadPoolExecutor(1, "generator")
        self._tokenizer_threads = ThreadPoolExecutor(2, "tokenizer")
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._load()), asyncio.create_task(self._work())]

    async def _load(self) -> None:
        begin = time.perf_counter()
        try:
            backend = await asyncio.get_running_loop().run_in_executor(self._generator_thread, self._holder.load)
        except Exception as error:
            self._holder.state = "failed to load"
            logger.error("the generator cannot be loaded: %s", error, exc_info=not isinstance(error, ValueError))
            return
        self._holder.fill(backend)
        logger.info("generator ready after %.1f s", time.perf_counter() - begin)

    async def tokenize(self, text: str) -> list[int]:
        """Raises TooLarge with the count, GeneratorUnavailable."""
        backend = self._holder.get()
        return await asyncio.get_running_loop().run_in_executor(self._tokenizer_threads, self._tokenize, backend, text)

    def _tokenize(self, backend: Backend, text: str) -> list[int]:
        limit, about = self._max_document_tokens, ""
        count = 0
        ids: list[int] = []
        if len(text) > limit * CHARS_PER_TOKEN:
            count, about = count_tokens_in_slices(backend, text, limit), "about "
        if count <= limit:
            ids, about = backend.tokenize(text), ""
            count = len(ids)
        if count > limit:
            raise TooLarge(f"The document has {about}{count} tokens; {limit} are taken at most. Send it in parts.")
        return ids

    async def encode(self, reading: Reading) -> Encoded:
        """Waits for its turn and for the generator. Cancelling it takes the job out of the queue, or ends its work at the
        next chunk. Raises Busy, ServerFault, and what `parent_state` raises."""
        self._holder.get()
        if self._closing:
            raise Stopping()
        if len(self._waiting) >= self._max_queue:
            raise Busy(retry_after_s=self._wait_s())
        job = Job(reading, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._wake.set()
        self._idle.clear()
        self._show_queue()
        try:
            return await job.future
        except asyncio.CancelledError:
            job.future.cancel()
            if job in self._waiting:
                self._waiting.remove(job)
                self._metrics.jobs_dropped.labels("abandoned").inc()
                self._show_queue()
            raise

    def _wait_s(self) -> float:
        """How long the queue takes from here."""
        return min(MAX_RETRY_S, max(MIN_RETRY_S, sum(job.tokens for job in self._waiting) / self._tokens_per_s))

    def _show_queue(self) -> None:
        self._metrics.queue_depth.set(len(self._waiting))
        self._metrics.queue_tokens.set(sum(job.tokens for job in self._waiting))

    def _next_batch(self) -> list[Job]:
        """The oldest job, and those after it of the same strategy while they fit into one pass, padding included: no more,
        since all of a batch are answered at its end."""
        limit = self._holder.get().batch_tokens if self._waiting else 0
        batch: list[Job] = []
        longest = 0
        for job in list(self._waiting):
            if job.future.done():
                self._waiting.remove(job)
                continue
            if batch and job.reading.strategy != batch[0].reading.strategy:
                continue
            if batch and max(longest, job.tokens) * (len(batch) + 1) > limit:
                break
            longest = max(longest, job.tokens)
            self._waiting.remove(job)
            batch.append(job)
        self._show_queue()
        return batch

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            batch = self._next_batch()
            if not batch:
                self._wake.clear()
                self._idle.set()
                continue
            await self._run(batch)

    async def _run(self, batch: list[Job]) -> None:
        """Answers every job of the batch, whatever happens."""
        try:
            batch = [job for job in batch if await self._prepared(job)]
            if not batch:
                return
            begin = time.perf_counter()
            self._metrics.batch_documents.observe(len(batch))
            results = await asyncio.get_running_loop().run_in_executor(self._generator_thread, self._generate, batch)
        except asyncio.CancelledError:
            _fail(batch, Stopping())
            raise
        except Abandoned:
            self._metrics.jobs_dropped.labels("abandoned").inc(len(batch))
            return
        except Exception as error:
            if len(batch) > 1 and not self._closing:
                for job in batch:
                    if not job.future.done():
                        await self._run([job])
                return
            self._metrics.generator_failures.inc()
            _fail(batch, _as_answer(error))
            return
        seconds = time.perf_counter() - begin
        self._tokens_per_s = 0.7 * self._tokens_per_s + 0.3 * sum(job.tokens for job in batch) / seconds
        for job, result in zip(batch, results, strict=True):
            if not job.future.done():
                job.future.set_result(result)

    async def _prepared(self, job: Job) -> bool:
        """Fetch what the job goes on from. A job whose parent cannot be had is answered, and left out."""
        if job.reading.parent_state is None or job.before is not None:
            return True
        try:
            job.before = await job.reading.parent_state()
        except GenadapterError as error:
            _fail([job], error)
        return job.before is not None

    def _generate(self, batch: list[Job]) -> list[Encoded]:
        """In the generator's thread."""
        backend = self._holder.get()
        begin = time.perf_counter()
        progress = Progress(
            [job.future for job in batch], sum(job.tokens for job in batch), self._metrics, lambda: self._hurry
        )
        before = [None if job.before is None else backend.load_state(job.before) for job in batch]
        states = backend.encode([job.reading.ids for job in batch], batch[0].reading.strategy, before, progress)
        encoded = time.perf_counter()
        adapters = backend.factorize(states)
        payloads = [adapter.to_bytes() for adapter in adapters]
        forward_ms, factorize_ms = (encoded - begin) * 1000, (time.perf_counter() - encoded) * 1000
        return [
            Encoded(
                payload,
                made.rank,
                made.tokens,
                made.chunks,
                (begin - job.queued_s) * 1000,
                forward_ms,
                factorize_ms,
                backend.dump_state(state) if job.reading.keep_state else None,
            )
            for job, made, payload, state in zip(batch, adapters, payloads, states, strict=True)
        ]

    async def close(self, grace_s: float) -> None:
        """Takes no more; what waits or runs gets `grace_s`, the rest is told that the server stops."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_s)
        self._hurry = True
        _fail(list(self._waiting), Stopping())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._generator_thread.shutdown(wait=False, cancel_futures=True)
        self._tokenizer_threads.shutdown(wait=False, cancel_futures=True)


def _fail(jobs: list[Job], error: GenadapterError) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(error)


def _as_answer(error: Exception) -> GenadapterError:
    if isinstance(error, GenadapterError):
        return error
    if (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    ):  # torch's own, without importing torch
        logger.error("the generator ran out of memory")
        return GeneratorUnavailable("out of memory")
    logger.exception("the generator failed", exc_info=error)
    return ServerFault("the generator failed")
