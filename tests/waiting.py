"""Waiting for what another thread or process does: as long as a slow machine needs, and no longer than it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds for any answer that takes less than one: what takes longer hangs, and a busy machine may stand still for a minute.
PATIENCE_S = 120.0


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Returns once `condition()` is true. Raises AssertionError when it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
