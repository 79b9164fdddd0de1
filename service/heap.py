"""Python's garbage collector in processes that load much when they start, and keep it."""

from __future__ import annotations

import gc

# torch, transformers and vLLM make a million objects when they are imported, nearly all of them for good. With Python's own
# first threshold, 700, looking through them again and again is a fifth of the time that importing takes.
_LOADING = 50_000
_SERVING = gc.get_threshold()


def expect_much() -> None:
    """To be called before the imports."""
    gc.set_threshold(_LOADING)


def settle() -> None:
    """What is there now stays, and the collector need not look through it again: with torch and transformers loaded a full
    collection stopped every request for 0.2 to 0.3 s, once in a thousand requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_SERVING)
