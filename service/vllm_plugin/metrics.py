"""What the engine's own /metrics says of adapters, beside vLLM's numbers. No label ever holds an id."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

LOAD_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class EngineMetrics:
    """In prometheus_client's default registry, which vLLM serves; made once in a process."""

    def __init__(self) -> None:
        self.loads = Counter("genadapter_engine_loads", "Adapters brought from the store", ["outcome"])
        for outcome in ("loaded", "unknown", "failed"):
            self.loads.labels(outcome)  # at 0 from the start, so that the first one is seen as a rise
        self.load_seconds = Histogram(
            "genadapter_engine_load_seconds", "From the store to a LoRA folder", buckets=LOAD_BUCKETS_S
        )
        self.cache_bytes = Gauge("genadapter_engine_cache_bytes", "LoRA folders kept for the engine")
        self.cache_adapters = Gauge("genadapter_engine_cache_adapters", "LoRA folders kept for the engine")
        self.swept = Counter("genadapter_engine_swept", "Adapters that were deleted or expired and left the engine")
