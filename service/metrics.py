"""Every metric of the service, and every bucket. No label ever holds an id, a tenant or any other value without a
bound."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# From a store's round trip to a long document on a CPU.
STAGE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
STORE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
TOKEN_BUCKETS = (64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
BYTE_BUCKETS = (2**14, 2**16, 2**17, 2**18, 2**19, 2**20, 2**21, 2**22, 2**23, 2**24, 2**26)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One registry for each app, so that two apps in one process (tests) do not meet."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"genadapter_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"genadapter_{name}", text, labels, buckets=buckets, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"genadapter_{name}", text, labels, registry=registry)

        self.requests = counter("requests", "HTTP requests", "route", "method", "status")
        self.request_seconds = histogram(
            "request_seconds", "From request to the last byte of the answer", STAGE_BUCKETS_S, "route"
        )
        self.requests_in_flight = gauge("requests_in_flight", "HTTP requests being answered")

        self.stage_seconds = histogram(
            "contextualize_stage_seconds", "Time of each stage from document to adapter", STAGE_BUCKETS_S, "stage"
        )
        self.document_tokens = histogram("document_tokens", "Tokens of a contextualized document", TOKEN_BUCKETS)
        self.documents_parsed = counter("documents_parsed", "Uploaded files", "kind", "outcome")
        self.queue_depth = gauge("queue_depth", "Documents that wait for the generator")
        self.queue_tokens = gauge("queue_tokens", "Tokens of the documents that wait for the generator")
        self.batch_documents = histogram("batch_documents", "Documents in one pass of the base model", BATCH_BUCKETS)
        self.chunks = counter("chunks", "Passes of the base model over a chunk (or a batch of them) begun")
        self.jobs_dropped = counter("jobs_dropped", "Documents dropped before their turn", "reason")
        self.generator_failures = counter("generator_failures", "Passes of the generator that failed")
        self.adapters = counter("adapters", "Adapters created, reused, deleted and found damaged", "outcome")
        self.adapter_bytes = histogram("adapter_bytes", "Stored size of a created adapter", BYTE_BUCKETS)

        self.store_seconds = histogram("store_operation_seconds", "Store operations", STORE_BUCKETS_S, "operation")
        self.store_errors = counter("store_errors", "Store operations that failed", "operation")

        self.resolves = counter("adapter_resolves", "Checks of an adapter id before a completion", "outcome")
        self.first_token_seconds = histogram(
            "first_token_seconds", "From request to first token", STAGE_BUCKETS_S, "adapter"
        )
        self.generate_seconds = histogram("generate_seconds", "From request to last token", STAGE_BUCKETS_S, "adapter")
        self.completion_tokens = counter("tokens", "Tokens read and written by the engine for POST /generate", "kind")
        self.engine_errors = counter("engine_errors", "Calls of the engine that failed", "kind")
        self.part_ready = gauge("part_ready", "1 when the part can serve", "part")
        self._name_what_may_happen()

    def _name_what_may_happen(self) -> None:
        """At 0 from the start: Prometheus sees a count rise, and not a series that begins with its first event."""
        for outcome in ("created", "reused", "deleted", "damaged"):
            self.adapters.labels(outcome)
        for kind in ("timeout", "connection", "answer"):
            self.engine_errors.labels(kind)
        self.jobs_dropped.labels("abandoned")

    def observe_store(self, operation: str, seconds: float, failed: bool) -> None:
        self.store_seconds.labels(operation).observe(seconds)
        self.store_errors.labels(operation).inc(failed)

    def text(self) -> bytes:
        return generate_latest(self.registry)
