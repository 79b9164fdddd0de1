"""Requests with a seed whose prompt is read in several steps, on CPUs.

vLLM samples for every row of a step, drops what it sampled for rows whose prompt is not read to its end yet, and winds their
generators back by an offset that generators on a CPU do not have: the exception ends the engine ("CPU Generator does not use
offset", 0.32). Here those rows draw from the common generator, whose token is dropped anyway, and a seed's own numbers begin
with its first token.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from service.vllm_plugin.hooks import known_release


def keep_seeds(runner_module: ModuleType) -> None:
    """`runner_module`: the module vllm.v1.worker.cpu_model_runner."""
    if not known_release("seeded requests whose prompt is read in parts, which end the engine"):
        return
    runner = runner_module.CPUModelRunner
    sample: Callable[..., Any] = runner.sample_tokens

    def sample_tokens(self: Any, *args: Any, **kwargs: Any) -> Any:
        generators = self.input_batch.generators
        unfinished = self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0]
        aside = {row: generators.pop(row) for row in map(int, unfinished) if row in generators}
        try:
            return sample(self, *args, **kwargs)
        finally:
            generators.update(aside)

    runner.sample_tokens = sample_tokens
