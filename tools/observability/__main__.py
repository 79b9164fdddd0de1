"""Write what is made from something else: Grafana's dashboards (from the tables beside this file) and the Kubernetes object of
docker/prometheus/rules.yml. `python tools/observability` writes, `--check` says whether a file differs. Needs PyYAML.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import contextualization
import engines
import users
import yaml
from grafana import dashboard

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docker/prometheus/rules.yml"
PROMETHEUS_RULE = ROOT / "k8s/components/monitoring/prometheus-rule.yaml"
DASHBOARDS = ROOT / "docker/grafana/dashboards"
PAGES = {
    "users": ("genadapter: users", users.PANELS),
    "contextualization": ("genadapter: contextualization", contextualization.PANELS),
    "engine": ("genadapter: adapters and engines", engines.PANELS),
}


def prometheus_rule() -> str:
    body = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "genadapter", "labels": {"release": "prometheus"}},
        "spec": yaml.safe_load(RULES.read_text()),
    }
    return "# Made by tools/observability from docker/prometheus/rules.yml.\n" + yaml.safe_dump(
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
            print(f"{path.relative_to(ROOT)} is not what tools/observability makes: run it")
        return 1 if stale else 0
    for path in stale:
        path.write_text(files()[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
