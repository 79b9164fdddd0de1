"""Loads that cannot kill the engine.

vLLM loads an adapter in two places. `add_lora`, called by the API server when a name is resolved, runs between two steps and
hands its error back to the caller: harmless. The other is inside a step: an adapter that other loads have pushed out of the
worker's cache is read again when a request that uses it is scheduled. An exception there ends the engine, whatever it was.

So that a load inside a step need not fail, the file of an adapter is kept while any request uses it (frontend), is
verified by a checksum here, and is made again from Redis when it is gone or damaged. When that fails too, the step still has
to finish for the sake of the other requests, and the requests of this adapter must not get an answer computed without it:

1. the worker puts an empty adapter in the slot and names its id in the step's output (`_apply_adapters`, `Worker`);
2. the scheduler, before it uses that output, drops these requests' tokens, takes their blocks out of the prefix cache (they
   were computed without the adapter, and would be found under its name) and ends them with vLLM's own error status, which
   reaches the client as a 500 of that request (`Scheduler.update_from_output`);
3. the empty adapter is removed before the next step, so that a later request tries the load again.

With several workers only one of them reports to the scheduler; there a failed load still raises: the engine is started
again, and no answer is wrong.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from service.ids import is_adapter_id
from service.vllm_plugin.hooks import known_release, logger

# Attribute of ModelRunnerOutput that carries the integer ids of the adapters that could not be loaded in this step.
FAILED = "genadapter_failed_loras"
# vLLM's null block: never computed, shared by all.
NULL_BLOCK = 0


def guard_loads(worker_manager: ModuleType) -> None:
    """`worker_manager`: the module vllm.lora.worker_manager."""
    if not known_release("loading adapters"):
        return
    base, cached = worker_manager.WorkerLoRAManager, worker_manager.LRUCacheWorkerLoRAManager
    load = base._load_adapter

    def load_adapter(self: Any, request: Any) -> Any:
        if not is_adapter_id(request.lora_name):
            return load(self, request)
        from service.vllm_plugin.files import verify

        try:
            verify(request.lora_path)
            return load(self, request)
        except Exception as error:
            logger.warning("genadapter: the files of %s cannot be used (%s): made again", request.lora_name, error)
        from service.vllm_plugin.source import restore

        restore(request.lora_name, request.lora_path)
        return load(self, request)

    base._load_adapter = load_adapter
    cached._apply_adapters = _apply_adapters


def _apply_adapters(self: Any, lora_requests: set[Any]) -> None:
    """In place of `LRUCacheWorkerLoRAManager._apply_adapters`: before each step, makes the adapters of the step active."""
    failed: set[int] = self.__dict__.setdefault(FAILED, set())
    for lora_id in failed:
        self._adapter_manager.remove_adapter(lora_id)
    failed.clear()
    wanted = {request.lora_int_id: request for request in lora_requests if request}
    if len(wanted) > self._adapter_manager.lora_slots:
        raise RuntimeError(f"{len(wanted)} adapters in a step, {self._adapter_manager.lora_slots} slots")
    present = self.list_adapters()
    # Those present first: being touched, they are not the ones that the others push out.
    for lora_id in sorted(wanted, key=lambda lora_id: lora_id not in present):
        try:
            self.add_adapter(wanted[lora_id])
        except Exception:
            if _several_workers():
                raise
            logger.exception("genadapter: %s cannot be loaded: its requests fail", wanted[lora_id].lora_name)
            _put_empty(self, lora_id)
            failed.add(lora_id)


def _several_workers() -> bool:
    from vllm.distributed import parallel_state

    return bool(parallel_state.get_tp_group().world_size * parallel_state.get_pp_group().world_size > 1)


def _put_empty(worker_manager: Any, lora_id: int) -> None:
    """The zeros that vLLM itself warms up with."""
    manager = worker_manager._adapter_manager
    manager.remove_adapter(lora_id)
    if len(manager) + 1 > manager.capacity:
        manager.remove_oldest_adapter()
    manager.add_adapter(manager.create_dummy_lora(lora_id, 1, worker_manager.embedding_modules))
    manager.activate_adapter(lora_id)


def report_failures(gpu_worker: ModuleType) -> None:
    """`gpu_worker`: the module vllm.v1.worker.gpu_worker, whose `Worker` is the CPU worker's base too."""
    if not known_release("reporting adapters that cannot be loaded"):
        return
    for name in ("execute_model", "sample_tokens"):
        setattr(gpu_worker.Worker, name, _reporting(getattr(gpu_worker.Worker, name)))


def _reporting(method: Any) -> Any:
    def report(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = method(self, *args, **kwargs)
        failed = getattr(getattr(self.model_runner, "lora_manager", None), FAILED, None)
        return _mark(output, frozenset(failed)) if failed else output

    report.__name__ = method.__name__
    return report


def _mark(output: Any, failed: frozenset[int]) -> Any:
    """Name the failed adapters in a step's output, also in one that is still being computed (`get_output`)."""
    if hasattr(output, "get_output"):
        finish = output.get_output
        output.get_output = lambda: _mark(finish(), failed)
    elif getattr(output, "req_ids", None):  # not the shared output of a step without requests
        setattr(output, FAILED, failed)
    return output


def fail_requests(scheduler: ModuleType) -> None:
    """`scheduler`: the module vllm.v1.core.sched.scheduler."""
    if not known_release("failing requests whose adapter cannot be loaded"):
        return
    update = scheduler.Scheduler.update_from_output

    def update_from_output(self: Any, scheduler_output: Any, output: Any) -> Any:
        failed = getattr(output, FAILED, None)
        if failed:
            _reject(self, scheduler_output, output, failed)
        return update(self, scheduler_output, output)

    scheduler.Scheduler.update_from_output = update_from_output


def _reject(scheduler: Any, scheduler_output: Any, output: Any, failed: frozenset[int]) -> None:
    for request_id in scheduler_output.num_scheduled_tokens:
        request = scheduler.requests.get(request_id)
        if request is None or request.lora_request is None or request.lora_request.lora_int_id not in failed:
            continue
        blocks = {block for group in scheduler.kv_cache_manager.get_block_ids(request_id) for block in group}
        scheduler.kv_cache_manager.evict_blocks(blocks - {NULL_BLOCK})
        if output.sampled_token_ids:
            output.sampled_token_ids[output.req_id_to_index[request_id]] = []
        output.prompt_logprobs_dict.pop(request_id, None)
        output.prompt_token_id_logprobs_dict.pop(request_id, None)
        # The scheduler's own list of requests that it ends with FinishReason.ERROR at the end of this step.
        scheduler.grammar_compile_error_reqs.add(request_id)
