"""What this project adds to a stock vLLM server, loaded through the entry point group `vllm.general_plugins`.

    server        vLLM's server as the service starts it
    threads       those of an engine that schedules and computes in one process (CPUs)
    resolver      adapter id -> LoRA folder, on first use (the API server's process)
    frontend      what the API server knows of our adapters: names, running requests, files; the sweep
    files         the folder of expanded LoRAs: bounded, least recently used first out, never while in use
    metrics       loads, cache and sweep in the engine's own /metrics
    source        Redis and the generator's expansion
    safe_loading  a load inside a step fails its requests and nothing else (worker and engine core)
    cpu_lora      the LoRA product on CPUs (worker), named to vLLM by `platform`
    cpu_kernel    products that numba compiles (worker, CPUs), had through `compiled`
    cpu_ops       compiled kernels where vLLM takes slower ones (worker, CPUs)
    cpu_seeds     seeded requests with long prompts do not end the engine (worker, CPUs)

vLLM calls `register` in every one of its processes, some of which never need most of this: everything heavy waits until
the vLLM module that it changes has been imported (`hooks.when_imported`).
"""

from __future__ import annotations

import os

RESOLVER_NAME = "genadapter"


def register() -> None:
    """Called by vLLM, possibly several times in one process."""
    from service.vllm_plugin import hooks

    if not hooks.first_call():
        return
    hooks.when_imported("vllm.lora.model_manager", "service.vllm_plugin.cpu_lora", "watch_slots")
    hooks.when_imported("vllm.platforms.cpu", "service.vllm_plugin.platform", "change_answers")
    hooks.when_imported("vllm.kernels", "service.vllm_plugin.cpu_ops", "register_norms")
    hooks.when_imported("vllm.model_executor.layers.utils", "service.vllm_plugin.cpu_ops", "choose_products")
    hooks.when_imported("vllm.v1.worker.cpu_model_runner", "service.vllm_plugin.cpu_seeds", "keep_seeds")
    hooks.when_imported("vllm.lora.worker_manager", "service.vllm_plugin.safe_loading", "guard_loads")
    hooks.when_imported("vllm.v1.worker.gpu_worker", "service.vllm_plugin.safe_loading", "report_failures")
    hooks.when_imported("vllm.v1.core.sched.scheduler", "service.vllm_plugin.safe_loading", "fail_requests")
    if os.environ.get("GENADAPTER_REDIS_URL") and os.environ.get("GENADAPTER_GENERATOR"):
        hooks.when_imported("vllm.lora.resolver", "service.vllm_plugin.resolver", "install")
        hooks.when_imported("vllm.entrypoints.openai.models.serving", "service.vllm_plugin.frontend", "watch_names")
        hooks.when_imported("vllm.v1.engine.async_llm", "service.vllm_plugin.frontend", "watch_requests")
