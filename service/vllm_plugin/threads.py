"""The threads of an engine that computes in the process that schedules."""

from __future__ import annotations

import os

# How many: set by whoever starts such an engine (`service.children`).
ENGINE_THREADS = "GENADAPTER_ENGINE_THREADS"
# The core of each, as in "0,1"; empty: any.
ENGINE_CORES = "GENADAPTER_ENGINE_CORES"


def bind() -> None:
    """To be called before OpenMP's first use, in the process that computes. These are the settings that vLLM gives to the workers
    that it starts (vllm.utils.ompmultiprocessing, 0.32)."""
    if number := os.environ.get(ENGINE_THREADS):
        os.environ["OMP_NUM_THREADS"] = number
        os.environ["KMP_BLOCKTIME"] = "5"  # ms that a thread spins when it has done its part
        os.environ["KMP_TPAUSE"] = "0"
        if cores := os.environ.get(ENGINE_CORES):
            os.environ["KMP_AFFINITY"] = f"granularity=fine,explicit,proclist=[{cores}]"
