"""Dashboards: in step with their source, complete, and asking only for metrics that exist. Scalers' queries too."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import metrics
from common import ROOT, documents, run

FOLDER = ROOT / "docker/grafana/dashboards"


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
    code, output = run(sys.executable, ROOT / "tools/observability", "--check")
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
