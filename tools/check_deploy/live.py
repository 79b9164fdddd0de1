"""Dashboards, scalers and rules against a Prometheus that scrapes a running system: the metrics are there, the queries answer."""

from __future__ import annotations

import json
import math
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import dashboards
import metrics
import prometheus
import yaml

# Of Prometheus itself.
OWN = {"up"}
# Without a series, or without a number, until the first upload or the first trouble.
QUIET_WHEN_WELL = ("genadapter_documents_parsed_total", 'status=~"')
# A machine is no cluster: its targets have no pod and no namespace.
CLUSTER_LABELS = (',namespace="genadapter"', ',pod=~"genadapter-generate-.*"')


def check(address: str, *, all_of_them: bool) -> list[str]:
    """`all_of_them`: under load, with some refusals and an upload: no query may be without a number."""
    rules = [rule for group in yaml.safe_load(prometheus.RULES.read_text())["groups"] for rule in group["rules"]]
    asked = list(dashboards.queries())
    everything = asked + [(f"rule {rule.get('alert') or rule['record']}", rule["expr"]) for rule in rules]
    existing = _existing(address) | OWN | {rule["record"] for rule in rules if "record" in rule}
    faults = [
        f"{place}: no target has the metric {name}"
        for place, query in everything
        for name in sorted({selector.name for selector in metrics.selectors(query)} - existing)
    ]
    quiet = 0
    for place, query in asked:
        values = list(_values(address, query))
        if any(math.isfinite(value) for value in values):
            continue
        if not all_of_them and any(word in query for word in QUIET_WHEN_WELL):
            quiet += 1
            continue
        faults.append(f"{place}: {'not a number' if values else 'no series'}: {query}")
    print(f"     {len(everything)} queries of dashboards, scalers and rules, {len(existing)} metrics, {quiet} quiet")
    return faults


def _existing(address: str) -> set[str]:
    """Every name that a target describes, whether or not it has a series yet."""
    found: set[str] = set()
    for name, described in _get(address, "metadata", limit_per_metric="1").items():
        kind = described[0]["type"]
        # The older text format names a counter with its ending, the newer one without.
        found |= {name, f"{name}_total"} if kind == "counter" else {name}
        if kind in ("histogram", "summary"):
            found |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    return found


def _values(address: str, query: str) -> Iterator[float]:
    query = query.replace("$__rate_interval", "1m")
    for label in CLUSTER_LABELS:
        query = query.replace(label, "")
    for series in _get(address, "query", query=query)["result"]:
        yield float(series["value"][1])


def _get(address: str, what: str, **arguments: str) -> Any:
    url = f"{address.rstrip('/')}/api/v1/{what}?{urllib.parse.urlencode(arguments)}"
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310  # named on the command line
        return json.load(response)["data"]
