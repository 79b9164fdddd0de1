"""Adapters and engines: residency, cold loads, KV cache, batches; and the store that both lean on."""

from __future__ import annotations

from grafana import Panel
from promql import ENGINE, REDIS, SCOPE, WINDOW, quantile, quantiles, rate

PANELS = [
    Panel("Engines that answer", "Of those that Prometheus knows.", "short", [(f"sum(up{{{ENGINE}}})", "")], "stat", 6),
    Panel(
        "Requests that run",
        "In all engines.",
        "short",
        [(f"sum(vllm:num_requests_running{{{ENGINE}}})", "")],
        "stat",
        6,
    ),
    Panel(
        "Requests that wait",
        "In all engines, for a place in a step.",
        "short",
        [(f"sum(vllm:num_requests_waiting{{{ENGINE}}})", "")],
        "stat",
        6,
    ),
    Panel(
        "Store, share of its memory",
        "At 100 % new adapters are refused: the store never drops any.",
        "percentunit",
        [(f"redis_memory_used_bytes{{{REDIS}}} / (redis_memory_max_bytes{{{REDIS}}} > 0)", "")],
        "stat",
        6,
    ),
    Panel(
        "Adapters in the engines",
        "Expanded adapters that each engine keeps at hand, in the RAM disk; one that is not there is a cold load.",
        "short",
        [(f"genadapter_engine_cache_adapters{{{ENGINE}}}", "{{instance}}")],
    ),
    Panel(
        "RAM disk of the adapters",
        "Bounded by ADAPTER_CACHE_BYTES: the least recently used go first, those in use stay.",
        "bytes",
        [(f"genadapter_engine_cache_bytes{{{ENGINE}}}", "{{instance}}")],
    ),
    Panel(
        "Cold loads",
        "Adapters brought from the store and expanded, by how that ended; swept: deleted or expired ones that left the engine.",
        "ops",
        [
            (rate("genadapter_engine_loads_total", "outcome", ENGINE), "{{outcome}}"),
            (rate("genadapter_engine_swept_total", where=ENGINE), "swept"),
        ],
    ),
    Panel(
        "Time of a cold load",
        "From the store to a LoRA folder; what a request with a cold adapter waits for, beside the load into a slot.",
        "s",
        quantiles("genadapter_engine_load_seconds", where=ENGINE),
    ),
    Panel(
        "Checks of adapter ids",
        "Before a completion. adapter_not_found: never made, expired, deleted or someone else's.",
        "ops",
        [(rate("genadapter_adapter_resolves_total", "outcome"), "{{outcome}}")],
        stack=True,
    ),
    Panel(
        "Time to first token in the engine, 95th percentile",
        "Without the service in front; cold loads of adapters are in it.",
        "s",
        [(quantile(0.95, "vllm:time_to_first_token_seconds", "instance", ENGINE), "{{instance}}")],
    ),
    Panel(
        "Time between tokens",
        "How fast answers are written.",
        "s",
        quantiles("vllm:inter_token_latency_seconds", where=ENGINE),
    ),
    Panel(
        "KV cache",
        "Share that is in use, by engine. Full, with preemptions: prompts are computed several times.",
        "percentunit",
        [(f"vllm:kv_cache_usage_perc{{{ENGINE}}}", "{{instance}}")],
    ),
    Panel(
        "Prefix cache and preemptions",
        "Share of prompt tokens that were there already; preemptions each second.",
        "short",
        [
            (
                f"{rate('vllm:prefix_cache_hits_total', where=ENGINE)} / {rate('vllm:prefix_cache_queries_total', where=ENGINE)}",
                "prefix cache hits",
            ),
            (rate("vllm:num_preemptions_total", where=ENGINE), "preemptions/s"),
        ],
    ),
    Panel(
        "Tokens",
        "Read and written by the engines, each second.",
        "short",
        [
            (rate("vllm:prompt_tokens_total", where=ENGINE), "read"),
            (rate("vllm:generation_tokens_total", where=ENGINE), "written"),
        ],
    ),
    Panel(
        "Tokens in a step",
        "The engine's batch, as its median and 95th percentile.",
        "short",
        quantiles("vllm:iteration_tokens_total", where=ENGINE, levels=(0.5, 0.95)),
    ),
    Panel(
        "Calls of the engine that failed",
        "As the service saw them.",
        "ops",
        [(rate("genadapter_engine_errors_total", "kind"), "{{kind}}")],
    ),
    Panel(
        "Engine starts",
        "A line that jumps is an engine that was started anew.",
        "dateTimeFromNow",
        [(f"process_start_time_seconds{{{ENGINE}}} * 1000", "{{instance}}")],
    ),
    Panel(
        "Store operations, 99th percentile",
        "As the service sees them, by operation.",
        "s",
        [(quantile(0.99, "genadapter_store_operation_seconds", "operation"), "{{operation}}")],
    ),
    Panel(
        "Store operations that failed",
        "By operation.",
        "ops",
        [(rate("genadapter_store_errors_total", "operation"), "{{operation}}")],
    ),
    Panel(
        "Adapters in the store",
        "Two keys each, made, expired and deleted.",
        "short",
        [
            (f"sum(redis_db_keys{{{REDIS}}}) / 2", "adapters, about"),
            (f"rate(redis_expired_keys_total{{{REDIS}}}[{WINDOW}]) / 2", "expired/s"),
            (f"rate(redis_evicted_keys_total{{{REDIS}}}[{WINDOW}])", "evicted/s: must be 0"),
        ],
    ),
    Panel(
        "Adapters by outcome",
        "Created, reused, deleted, and found damaged.",
        "ops",
        [(rate("genadapter_adapters_total", "outcome"), "{{outcome}}")],
    ),
    Panel(
        "Damaged adapters, last day",
        "Stored bytes that did not match their checksum. They were removed; anything but 0 is a matter of the store's hardware.",
        "short",
        [(f'sum(increase(genadapter_adapters_total{{{SCOPE},outcome="damaged"}}[1d]))', "found")],
    ),
]
