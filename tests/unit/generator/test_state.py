"""Appending: a context that goes on later is the context that was read at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generator.adapter import DamagedAdapter
from generator.encode import cut
from generator.generator import Generator

IDS = [1 + (7 * i * i) % 62 for i in range(200)]


@pytest.mark.parametrize("strategy", ["parallel", "sequential"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=st.integers(17, 90), borders=st.sets(st.integers(1, 5)))
def test_any_cutting_at_chunk_borders_gives_one_calls_adapter(
    tiny_generator: Callable[..., Generator], strategy: str, tokens: int, borders: set[int]
) -> None:
    generator = tiny_generator(key_shift=1, value_source="embedding", prefix_ids=(0,))
    chunks = cut(IDS[:tokens], generator.config.window)
    whole = generator.encode([IDS[:tokens]], strategy)[0]
    stored, start = None, 0
    for border in sorted({*(b for b in borders if b < len(chunks)), len(chunks)}):
        for piece in _calls(chunks[start:border], generator.config.window):
            before = None if stored is None else [generator.state_from_bytes(stored)]
            stored = generator.state_to_bytes(generator.encode([piece], strategy, before)[0])
        start = border
    assert stored is not None
    state = generator.state_from_bytes(stored)
    assert (state.tokens, state.chunks) == (whole.tokens, whole.chunks)
    torch.testing.assert_close(state.s, whole.s, rtol=0, atol=0)


def _calls(chunks: list[list[int]], window: int) -> list[list[int]]:
    """One call for all of these chunks where it cuts them the same way, else one call for each."""
    joined = [token for chunk in chunks for token in chunk]
    return [joined] if cut(joined, window) == chunks else chunks


def test_the_parent_stays_as_it_is_and_children_are_independent(tiny_generator: Callable[..., Generator]) -> None:
    generator = tiny_generator(strategy="parallel")
    parent = generator.encode([IDS[:10]])[0]
    before = parent.s.clone()
    one, two = generator.encode([IDS[10:20], IDS[20:40]], states=[parent, parent])
    torch.testing.assert_close(parent.s, before, rtol=0, atol=0)
    alone = [generator.encode([IDS[10:20]])[0], generator.encode([IDS[20:40]])[0]]
    for child, added in zip((one, two), alone, strict=True):
        torch.testing.assert_close(child.s, before + added.s)


@pytest.mark.parametrize("where", [0, 3, 60, -1])
def test_a_damaged_state_is_refused(tiny_generator: Callable[..., Generator], where: int) -> None:
    generator = tiny_generator()
    data = bytearray(generator.state_to_bytes(generator.encode([IDS[:30]])[0]))
    data[where] ^= 0x5A
    with pytest.raises(DamagedAdapter):
        generator.state_from_bytes(bytes(data))


def test_another_generators_state_is_refused(tiny_generator: Callable[..., Generator]) -> None:
    one = tiny_generator()
    data = one.state_to_bytes(one.encode([IDS[:30]])[0])
    with pytest.raises(ValueError, match="another generator"):
        tiny_generator(r1=14).state_from_bytes(data)
