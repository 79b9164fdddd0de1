"""Write what is made from something else: Grafana's dashboards (from the tables below) and the Kubernetes object of
docker/prometheus/rules.yml. `python tools/observability.py` writes, `--check` says whether a file differs. Needs PyYAML.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RULES = ROOT / "docker/prometheus/rules.yml"
PROMETHEUS_RULE = ROOT / "k8s/components/monitoring/prometheus-rule.yaml"
DASHBOARDS = ROOT / "docker/grafana/dashboards"
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
WINDOW = "$__rate_interval"
SCOPE = 'job="genadapter"'
ENGINE = 'job="genadapter-engine"'
REDIS = 'job="genadapter-redis"'
ROW_WIDTH, PANEL_HEIGHT, STAT_HEIGHT = 24, 8, 4


@dataclass(frozen=True)
class Panel:
    """`queries` are pairs of PromQL and legend."""

    title: str
    description: str
    unit: str
    queries: list[tuple[str, str]]
    kind: str = "timeseries"
    width: int = 12
    stack: bool = False
    thresholds: list[float] = field(default_factory=list)


def rate(metric: str, by: str = "", where: str = SCOPE) -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{{{where}}}[{WINDOW}]))"


def quantile(q: float, metric: str, by: str = "", where: str = SCOPE) -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{where}}}[{WINDOW}])))"


def quantiles(
    metric: str, by: str = "", where: str = SCOPE, levels: tuple[float, ...] = (0.5, 0.95, 0.99)
) -> list[tuple[str, str]]:
    legend = f"{{{{{by}}}}} " if by else ""
    return [(quantile(q, metric, by, where), f"{legend}p{q * 100:g}") for q in levels]


def mean(metric: str, by: str = "", where: str = SCOPE) -> str:
    return f"{rate(f'{metric}_sum', by, where)} / {rate(f'{metric}_count', by, where)}"


USERS = [
    Panel(
        "Availability, last hour",
        "Share of users' requests that were not answered with a 5xx. The objective is 99.5 %.",
        "percentunit",
        [("1 - genadapter:request_errors:ratio_rate1h", "")],
        "stat",
        6,
        thresholds=[0.995, 0.999],
    ),
    Panel(
        "First token in time, last hour",
        "Share of completions whose first token came within 2.5 s. The objective is 95 %.",
        "percentunit",
        [("1 - genadapter:first_token_late:ratio_rate1h", "")],
        "stat",
        6,
        thresholds=[0.95, 0.98],
    ),
    Panel(
        "Documents in time, last hour",
        "Share of documents that were adapters within 10 s. The objective is 95 %.",
        "percentunit",
        [("1 - genadapter:contextualize_late:ratio_rate1h", "")],
        "stat",
        6,
        thresholds=[0.95, 0.98],
    ),
    Panel(
        "Requests in flight",
        "Requests being answered now, all replicas together.",
        "short",
        [(f"sum(genadapter_requests_in_flight{{{SCOPE}}})", "")],
        "stat",
        6,
    ),
    Panel(
        "Requests",
        "Requests by route.",
        "reqps",
        [(rate("genadapter_requests_total", "route"), "{{route}}")],
        stack=True,
    ),
    Panel(
        "Errors",
        "Answers with a 4xx or 5xx, by status. 499: the client left; 429: too much was waiting.",
        "reqps",
        [(rate("genadapter_requests_total", "status", f'{SCOPE},status=~"[45].."'), "{{status}}")],
        stack=True,
    ),
    Panel(
        "Latency by route, 95th percentile",
        "From the request's first byte to the answer's last; streams count to their end.",
        "s",
        [(quantile(0.95, "genadapter_request_seconds", "route"), "{{route}}")],
    ),
    Panel(
        "Latency of a document",
        "POST /contextualize as its caller sees it.",
        "s",
        quantiles("genadapter_request_seconds", where=f'{SCOPE},route="/contextualize"'),
    ),
    Panel(
        "Time to first token, with an adapter and without",
        "The difference is what adapters cost: the check of the id, a load on first use, and the LoRA product.",
        "s",
        quantiles("genadapter_first_token_seconds", "adapter", levels=(0.5, 0.95)),
    ),
    Panel(
        "Time of a completion, with an adapter and without",
        "From the request to the last token.",
        "s",
        quantiles("genadapter_generate_seconds", "adapter", levels=(0.5, 0.95)),
    ),
    Panel(
        "Error budget, how fast it burns",
        "1 is the speed that uses the month's budget up in a month; alerts fire at 14.4, 6 and 1.",
        "short",
        [
            ("genadapter:request_errors:ratio_rate1h / 0.005", "availability"),
            ("genadapter:first_token_late:ratio_rate1h / 0.05", "first token"),
            ("genadapter:contextualize_late:ratio_rate1h / 0.05", "contextualize"),
        ],
    ),
    Panel(
        "Tokens",
        "Tokens read and written for POST /generate.",
        "short",
        [(rate("genadapter_tokens_total", "kind"), "{{kind}}")],
    ),
]

CONTEXTUALIZATION = [
    Panel(
        "Adapters made",
        "New adapters each second, all replicas together.",
        "ops",
        [(rate("genadapter_adapters_total", where=f'{SCOPE},outcome="created"'), "")],
        "stat",
        6,
    ),
    Panel(
        "Reuse, last hour",
        "Share of requests that asked for an adapter which their caller had already: they cost no forward pass.",
        "percentunit",
        [("genadapter:reuse:ratio_rate1h", "")],
        "stat",
        6,
    ),
    Panel(
        "Tokens read",
        "Tokens of the documents that went through the base model.",
        "short",
        [(rate("genadapter_document_tokens_sum"), "")],
        "stat",
        6,
    ),
    Panel(
        "Documents that wait",
        "In front of the generator, all replicas together. A replica refuses above MAX_QUEUE.",
        "short",
        [(f"sum(genadapter_queue_depth{{{SCOPE}}})", "")],
        "stat",
        6,
        thresholds=[],
    ),
    Panel(
        "Stages, 95th percentile",
        "Where a document's time goes, from parsing to the store.",
        "s",
        [(quantile(0.95, "genadapter_contextualize_stage_seconds", "stage"), "{{stage}}")],
    ),
    Panel(
        "Stages, mean, added up",
        "Their sum is the mean time of a document.",
        "s",
        [(mean("genadapter_contextualize_stage_seconds", "stage"), "{{stage}}")],
        stack=True,
    ),
    Panel(
        "Queue by replica",
        "Documents that wait in front of each replica's generator.",
        "short",
        [(f"genadapter_queue_depth{{{SCOPE}}}", "{{instance}}")],
    ),
    Panel(
        "Tokens that wait, by replica",
        "Divided by the speed below it is the time that a new document waits.",
        "short",
        [(f"genadapter_queue_tokens{{{SCOPE}}}", "{{instance}}")],
    ),
    Panel(
        "Speed of the generator",
        "Tokens of documents for each second of the forward pass.",
        "short",
        [
            (
                f"{rate('genadapter_document_tokens_sum')} / "
                + rate("genadapter_contextualize_stage_seconds_sum", where=f'{SCOPE},stage="forward"'),
                "tokens/s",
            )
        ],
    ),
    Panel("Tokens of a document", "How long the documents are.", "short", quantiles("genadapter_document_tokens")),
    Panel(
        "Documents in one pass",
        "Batching: how many documents share a pass of the base model.",
        "short",
        [(mean("genadapter_batch_documents"), "mean"), (quantile(0.95, "genadapter_batch_documents"), "p95")],
    ),
    Panel(
        "Uploaded files",
        "By kind and by how reading them ended.",
        "ops",
        [(rate("genadapter_documents_parsed_total", "kind, outcome"), "{{kind}} {{outcome}}")],
        stack=True,
    ),
    Panel(
        "Trouble",
        "Passes that failed, and documents whose callers left while they waited.",
        "ops",
        [
            (rate("genadapter_generator_failures_total"), "failed passes"),
            (rate("genadapter_jobs_dropped_total", "reason"), "dropped: {{reason}}"),
        ],
    ),
    Panel("Size of an adapter", "As stored.", "bytes", quantiles("genadapter_adapter_bytes")),
]

ENGINES = [
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
]

PAGES = {
    "users": ("genadapter: users", USERS),
    "contextualization": ("genadapter: contextualization", CONTEXTUALIZATION),
    "engine": ("genadapter: adapters and engines", ENGINES),
}


def dashboard(name: str, title: str, panels: list[Panel]) -> dict[str, Any]:
    placed, x, y, row_height = [], 0, 0, 0
    for number, panel in enumerate(panels, 1):
        height = STAT_HEIGHT if panel.kind == "stat" else PANEL_HEIGHT
        if x + panel.width > ROW_WIDTH:
            x, y, row_height = 0, y + row_height, 0
        placed.append(_panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": height}))
        x, row_height = x + panel.width, max(row_height, height)
    return {
        "uid": f"genadapter-{name}",
        "title": title,
        "tags": ["genadapter"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "tags": ["genadapter"],
                "title": "genadapter",
                "asDropdown": False,
                "includeVars": False,
                "keepTime": True,
            }
        ],
        "panels": placed,
    }


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "red" if panel.thresholds else "text", "value": None}]
    steps += [
        {"color": color, "value": value} for color, value in zip(("orange", "green"), panel.thresholds, strict=False)
    ]
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    if panel.kind == "timeseries":
        defaults["min"] = 0
        defaults["custom"] = {
            "fillOpacity": 15,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stack else "none"},
        }
        options = {
            "legend": {"displayMode": "table", "placement": "right", "calcs": ["lastNotNull", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
            }
            for i, (expression, legend) in enumerate(panel.queries)
        ],
    }


def prometheus_rule() -> str:
    body = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "genadapter", "labels": {"release": "prometheus"}},
        "spec": yaml.safe_load(RULES.read_text()),
    }
    return "# Made by tools/observability.py from docker/prometheus/rules.yml.\n" + yaml.safe_dump(
        body, sort_keys=False, width=120
    )


def files() -> dict[Path, str]:
    made = {
        DASHBOARDS / f"{name}.json": json.dumps(dashboard(name, title, panels), indent=1) + "\n"
        for name, (title, panels) in PAGES.items()
    }
    return {**made, PROMETHEUS_RULE: prometheus_rule()}


def main() -> int:
    stale = [path for path, text in files().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what tools/observability.py makes: run it")
        return 1 if stale else 0
    for path in stale:
        path.write_text(files()[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
