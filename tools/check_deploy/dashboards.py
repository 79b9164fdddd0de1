"""Dashboards: in step with their source, complete, and asking only for metrics that exist. Scalers' queries too."""

from __future__ import annotations

import json
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator

import metrics
from common import ROOT, documents, run

FOLDER = ROOT / "docker/grafana/dashboards"
# Empty on a healthy system, or on one to which nobody has uploaded a file.
MAY_BE_EMPTY = (
    "_errors_total",
    "_failures_total",
    "jobs_dropped",
    "_swept_total",
    "evicted_keys",
    "documents_parsed",
    '"[45].."',
)


def queries() -> Iterator[tuple[str, str]]:
    for file in sorted(FOLDER.glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.stem}: {panel['title']}", target["expr"]
    for file in sorted((ROOT / "k8s/components/keda").glob("*.yaml")):
        for item in documents(file.read_text()):
            for trigger in item.get("spec", {}).get("triggers", []):
                yield f"keda {item['metadata']['name']}: {trigger['name']}", trigger["metadata"]["query"]


def check() -> list[str]:
    code, output = run(sys.executable, ROOT / "tools/observability.py", "--check")
    faults = output.splitlines() if code else []
    for file in sorted(FOLDER.glob("*.json")):
        dashboard = json.loads(file.read_text())
        if len({panel["id"] for panel in dashboard["panels"]}) != len(dashboard["panels"]):
            faults.append(f"{file.name}: two panels of one id")
        for panel in dashboard["panels"]:
            if not (
                panel["title"]
                and panel["description"]
                and panel["fieldConfig"]["defaults"]["unit"]
                and panel["targets"]
            ):
                faults.append(f"{file.name}: {panel['title']}: lacks a title, a description, a unit or a query")
    found = list(queries())
    for place, query in found:
        faults += [f"{place}: {fault}" for fault in metrics.faults(query)]
    if not metrics.knows_engine():
        print("     vLLM is not installed in .venv: names of its metrics are not checked")
    print(f"     {len(found)} queries")
    return faults


def check_live(prometheus: str) -> list[str]:
    """Queries that return no series on a running system, except those that count trouble."""
    faults = []
    for place, query in queries():
        asked = query.replace("$__rate_interval", "1m")
        # A machine is no cluster: its targets have no pod and no namespace.
        for label in (',namespace="genadapter"', ',pod=~"genadapter-generate-.*"'):
            asked = asked.replace(label, "")
        address = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': asked})}"
        with urllib.request.urlopen(address, timeout=10) as response:  # noqa: S310  # named on the command line
            series = json.load(response)["data"]["result"]
        if not series:
            what = "empty, as on a healthy system" if any(word in query for word in MAY_BE_EMPTY) else "returns nothing"
            print(f"     {place}: {what}: {asked}")
            if what == "returns nothing":
                faults.append(f"{place}: {asked}")
    return faults
