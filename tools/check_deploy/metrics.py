"""Which metrics exist, with which labels, and which ones a query asks for."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import promql_parser
import yaml
from common import ROOT

SUFFIXES = ("_total", "_bucket", "_count", "_sum", "_created")
# Put on by Prometheus, by its operator, or by the store's exporter.
TARGET_LABELS = {"job", "instance", "namespace", "pod", "le"}
# Of Prometheus itself, of every client library's process collector, and of oliver006/redis_exporter.
FOREIGN = {
    "up", "process_start_time_seconds",
    "redis_up", "redis_memory_used_bytes", "redis_memory_max_bytes", "redis_evicted_keys_total", "redis_expired_keys_total",
    "redis_db_keys", "redis_aof_enabled", "redis_aof_last_write_status", "redis_aof_last_bgrewrite_status",
}  # fmt: skip
# vLLM 0.32's, where it is not installed; else read from its source.
ENGINE_SOURCE = ".venv/lib/python3*/site-packages/vllm/v1/metrics/loggers.py"


@cache
def known() -> dict[str, set[str] | None]:
    """Metrics by their bare name, with their labels where those are known."""
    sys.path.insert(0, str(ROOT))
    from service.metrics import Metrics
    from service.vllm_plugin.metrics import EngineMetrics

    found: dict[str, set[str] | None] = dict.fromkeys(FOREIGN)
    for owner in (Metrics(), EngineMetrics()):
        for value in vars(owner).values():
            if hasattr(value, "_labelnames"):
                found[value._name] = set(value._labelnames)
    for source in ROOT.glob(ENGINE_SOURCE):
        found |= dict.fromkeys(re.findall(r'"(vllm:[a-z0-9_]+)"', source.read_text()))
    rules = yaml.safe_load((ROOT / "docker/prometheus/rules.yml").read_text())
    found |= {rule["record"]: set() for group in rules["groups"] for rule in group["rules"] if "record" in rule}
    return found


def knows_engine() -> bool:
    return any(name.startswith("vllm:") for name in known())


def selectors(query: str) -> Iterator[Any]:
    """Every vector selector of a query; raises ValueError on a query that is none."""
    yield from _walk(promql_parser.parse(query.replace("$__rate_interval", "5m").replace("$__range", "1h")))


def _walk(node: Any) -> Iterator[Any]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    for name in ("vector_selector", "expr", "lhs", "rhs", "args", "param"):
        child = getattr(node, name, None)
        for part in child if isinstance(child, list) else [child]:
            if part is not None and not isinstance(part, str | float | int):
                yield from _walk(part)


def faults(query: str) -> list[str]:
    try:
        found = list(selectors(query))
    except ValueError as error:
        return [f"cannot be parsed: {error}"]
    return [fault for selector in found if (fault := _fault(selector))]


def _fault(selector: Any) -> str:
    name = selector.name
    bare = (
        name
        if name in known()
        else next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
    )
    if bare not in known():
        return "" if name.startswith("vllm:") and not knows_engine() else f"there is no metric {name}"
    labels = known()[bare]
    asked = {matcher.name for matcher in selector.matchers.matchers} - TARGET_LABELS
    return f"{name} has no label {', '.join(asked - labels)}" if labels is not None and asked - labels else ""
