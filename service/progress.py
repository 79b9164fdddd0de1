"""A batch's progress through the base model, chunk by chunk: counted, told, and ended when nobody wants it."""

from __future__ import annotations

import logging
import time
from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any

from service.errors import Stopping
from service.metrics import Metrics

logger = logging.getLogger(__name__)

# A long document's progress is logged this often.
PROGRESS_S = 10.0


class Abandoned(Exception):
    """Nobody waits for the batch any more."""


class Progress:
    """Called before each pass, in the generator's thread. Raises Abandoned, Stopping: the work ends there."""

    def __init__(
        self, waiting: Sequence[Future[Any]], tokens: int, metrics: Metrics, stopping: Callable[[], bool]
    ) -> None:
        self._waiting, self._tokens, self._metrics, self._stopping = waiting, tokens, metrics, stopping
        self._chunks = 0
        self._begin_s = self._told_s = time.perf_counter()

    def __call__(self) -> None:
        if self._stopping():
            raise Stopping()
        if all(future.done() for future in self._waiting):
            raise Abandoned()
        self._metrics.chunks.inc()
        now_s = time.perf_counter()
        if now_s - self._told_s >= PROGRESS_S:
            self._told_s = now_s
            logger.info("%d tokens: %d chunks read after %.0f s", self._tokens, self._chunks, now_s - self._begin_s)
        self._chunks += 1
