"""vLLM's OpenAI server as our child: `python -m service.vllm_plugin.server`, with the server's own arguments.

multiprocessing imports this module anew in each process that the server starts, before anything of vLLM: all of them load alike.
"""

from __future__ import annotations

import os
import runpy

from service import heap
from service.vllm_plugin import threads

heap.expect_much()  # vLLM itself freezes what it has loaded

if __name__ == "__main__":
    os.register_at_fork(after_in_child=threads.bind)
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
else:
    threads.bind()  # this process computes
