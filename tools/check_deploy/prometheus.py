"""Rules: promtool's own checks and tests, metrics that exist, and a runbook paragraph for every alert."""

from __future__ import annotations

import re

import metrics
import yaml
from common import ROOT, debian_program, run

RULES = ROOT / "docker/prometheus/rules.yml"
TESTS = ROOT / "tests/deploy/rules_test.yml"
SEVERITIES = {"page", "ticket"}


def check() -> list[str]:
    faults: list[str] = []
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    for rule in rules:
        name = rule.get("alert") or rule["record"]
        faults += [f"{name}: {fault}" for fault in metrics.faults(rule["expr"])]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    faults += _alerts(alerts)
    tool = debian_program("prometheus", "promtool")
    configuration = ROOT / "docker/prometheus/prometheus.yml"
    for command in (
        ("check", "rules", RULES),
        ("check", "config", "--syntax-only", configuration),
        ("test", "rules", TESTS),
    ):
        code, output = run(tool, *command)
        faults += (
            [f"promtool {' '.join(map(str, command[:2]))}: {line}" for line in output.splitlines()] if code else []
        )
    tested = set(re.findall(r"alertname: (\w+)", TESTS.read_text()))
    faults += [f"{name}: no unit test" for name in sorted(alerts.keys() - tested)]
    return faults


def _alerts(alerts: dict[str, dict]) -> list[str]:
    headings = set(re.findall(r"^#+ (Genadapter\w+)$", (ROOT / "docs/operations.md").read_text(), re.M))
    faults = [f"{name}: no runbook paragraph in docs/operations.md" for name in sorted(alerts.keys() - headings)]
    faults += [f"docs/operations.md: {name} is no alert" for name in sorted(headings - alerts.keys())]
    for name, rule in alerts.items():
        if rule["labels"].get("severity") not in SEVERITIES:
            faults.append(f"{name}: severity is none of {', '.join(sorted(SEVERITIES))}")
        if not {"summary", "description", "runbook"} <= rule["annotations"].keys():
            faults.append(f"{name}: lacks an annotation")
    return faults
