"""Rules: promtool's own checks and tests, metrics that exist, and a runbook paragraph for every alert."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import metrics
import yaml
from common import HOME, ROOT, Skip, run

RULES = ROOT / "docker/prometheus/rules.yml"
TESTS = ROOT / "tests/deploy/rules_test.yml"
SEVERITIES = {"page", "ticket"}


def promtool() -> Path:
    """On the path, or out of Debian's package, unpacked and not installed."""
    if found := shutil.which("promtool"):
        return Path(found)
    folder = HOME / "prometheus"
    tool = folder / "usr/bin/promtool"
    if not tool.exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Skip("promtool is not installed (Debian's package prometheus has it)")
        folder.mkdir(parents=True, exist_ok=True)
        code, output = run("apt-get", "download", "prometheus", cwd=folder)
        packages = sorted(folder.glob("prometheus_*.deb"))
        if code or not packages:
            raise Skip(f"promtool is not installed, and apt-get download prometheus failed: {output[-200:]}")
        run("dpkg-deb", "-x", packages[0], folder)
        packages[0].unlink()
    return tool


def check() -> list[str]:
    faults: list[str] = []
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    for rule in rules:
        name = rule.get("alert") or rule["record"]
        faults += [f"{name}: {fault}" for fault in metrics.faults(rule["expr"])]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    faults += _alerts(alerts)
    tool = promtool()
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
