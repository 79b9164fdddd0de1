"""The threads of an engine that computes in the process that schedules."""

from __future__ import annotations

import os

# Numbers of the cores to compute on, as in "0,1": set by whoever starts such an engine (`service.children`).
ENGINE_CORES = "GENADAPTER_ENGINE_CORES"


def bind() -> None:
    """To be called before OpenMP's first use, in the process that computes: a thread for each core. These are the settings that
    vLLM gives to the workers that it starts (vllm.utils.ompmultiprocessing, 0.32)."""
    if cores := os.environ.get(ENGINE_CORES):
        os.environ["OMP_NUM_THREADS"] = str(len(cores.split(",")))
        os.environ["KMP_AFFINITY"] = f"granularity=fine,explicit,proclist=[{cores}]"
        os.environ["KMP_BLOCKTIME"] = "5"  # ms that a thread spins when it has done its part
        os.environ["KMP_TPAUSE"] = "0"
