"""The routes of gateway, ingress and demonstration against the service's: every address reaches the role that answers it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from service.app import create_app
from service.settings import load_settings
from tools.cluster.parts import nginx_configuration

ROOT = Path(__file__).parents[2]
# For those who look after the service: not for the world outside.
INSIDE = {"/healthz", "/readyz", "/metrics"}
Route = Callable[[str, str], str | None]


def routes() -> Iterator[tuple[str, str]]:
    """Method and an address of each route, the one that is still to come included."""
    yield "POST", "/adapters/ga-0/append"
    for route in _flat(create_app(load_settings()).routes):
        for method in route.methods or ():
            yield method, route.path.replace("{", "").replace("}", "")


def _flat(items: list) -> Iterator:
    for item in items:
        if hasattr(item, "methods"):
            yield item
        else:
            yield from _flat(getattr(getattr(item, "original_router", item), "routes", []))


def _under(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def by_gateway(method: str, path: str) -> str | None:
    documents = yaml.safe_load_all((ROOT / "k8s/components/gateway-api/gateway.yaml").read_text())
    rules = next(item for item in documents if item["kind"] == "HTTPRoute")["spec"]["rules"]
    found = []
    for rule in rules:
        for match in rule["matches"]:
            exact = match["path"]["type"] == "Exact"
            value = match["path"]["value"]
            if match.get("method", method) == method and (path == value if exact else _under(path, value)):
                # The Gateway API's order: exact before prefix, the longest prefix, then the one that names a method.
                found.append(((exact, len(value), "method" in match), rule["backendRefs"][0]["name"]))
    return max(found)[1] if found else None


def by_ingress(method: str, path: str) -> str | None:
    rule = yaml.safe_load((ROOT / "k8s/overlays/cpu/ingress.yaml").read_text())["spec"]["rules"][0]
    found = [
        (item["pathType"] == "Exact", len(item["path"]), item["backend"]["service"]["name"])
        for item in rule["http"]["paths"]
        if (path == item["path"] if item["pathType"] == "Exact" else _under(path, item["path"]))
    ]
    return max(found)[2] if found else None


def by_nginx(method: str, path: str) -> str | None:
    text = nginx_configuration(Path(), 0, {})
    # The first of a map's patterns that matches counts.
    found = (role for pattern, role in re.findall(r'"~(.+)" (\w+);', text) if re.search(pattern, f"{method} {path}"))
    role = next(found, None)
    return f"genadapter-{role}" if role else None


@pytest.mark.parametrize("route", [by_gateway, by_ingress, by_nginx])
def test_every_address_reaches_its_role(route: Route) -> None:
    for method, path in routes():
        reads_documents = _under(path, "/contextualize") or path.endswith("/append")
        role = "contextualize" if reads_documents else "generate"
        wanted = None if path in INSIDE else f"genadapter-{role}"
        if route is by_ingress and path.endswith("/append"):
            continue  # an Ingress cannot tell methods apart; its file says so
        assert route(method, path) == wanted, (method, path)


def test_the_addresses_are_all_there() -> None:
    assert {"/contextualize", "/generate", "/adapters", "/v1/models", "/metrics"} <= {path for _, path in routes()}
