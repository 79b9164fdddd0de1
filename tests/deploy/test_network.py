"""What `make check-deploy` says of NetworkPolicies: ours are enough, none is there for nothing, and a wide one is seen."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.check_deploy import network

FOLDER = Path(__file__).parents[2] / "k8s"
PARTS = ("base", "components/gateway-api", "components/monitoring", "components/redis-exporter")
OBJECTS: list[dict[str, Any]] = [
    item
    for part in PARTS
    for file in sorted((FOLDER / part).glob("*.yaml"))
    for item in yaml.safe_load_all(file.read_text())
    if "metadata" in item
]
POLICIES = [item["metadata"]["name"] for item in OBJECTS if item["kind"] == "NetworkPolicy"]


def test_everything_needed_gets_through_and_nothing_else() -> None:
    assert network.check(OBJECTS) == []


@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_is_there_for_nothing(name: str) -> None:
    left = [item for item in OBJECTS if (item["kind"], item["metadata"]["name"]) != ("NetworkPolicy", name)]
    assert network.check(left)


def test_a_policy_that_opens_the_engines_to_a_whole_namespace_is_seen() -> None:
    objects = copy.deepcopy(OBJECTS)
    monitoring = next(item for item in objects if item["metadata"]["name"] == "monitoring")
    del monitoring["spec"]["ingress"][0]["from"][0]["podSelector"]
    assert network.check(objects) == ["NetworkPolicies let a pod beside Prometheus reach engine, port 8001"]
