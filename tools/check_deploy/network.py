"""NetworkPolicies, applied as a cluster does: what must get through gets through, and what must not does not."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

OURS = {"kubernetes.io/metadata.name": "genadapter"}
HTTP, ENGINE, STORE, STORE_TLS, EXPORTER = 8000, 8001, 6379, 6380, 9121
COMPONENT, JOB, GATEWAY = "app.kubernetes.io/component", "genadapter.io/job", "gateway.networking.k8s.io/gateway-name"
# Any address outside the cluster.
WORLD = "203.0.113.7"
Object = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """Somebody who speaks or is spoken to. `namespace` are its labels; somebody outside the cluster has an address alone."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    namespace: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    address: str = ""


Flow = tuple[Pod, Pod, int]
INGRESS = Pod("the ingress", namespace={"genadapter.io/access": "gateway"})
PROMETHEUS = Pod("Prometheus", {"app.kubernetes.io/name": "prometheus"}, {"genadapter.io/access": "monitoring"})
BESIDE_PROMETHEUS = Pod("a pod beside Prometheus", namespace=PROMETHEUS.namespace)
COLLECTOR = Pod("the collector", namespace={"genadapter.io/access": "tracing"})
DNS = Pod("DNS", namespace={"kubernetes.io/metadata.name": "kube-system"})
NODE_DNS = Pod("the node's DNS", address="169.254.20.10")
ISTIOD = Pod("Istio", namespace={"kubernetes.io/metadata.name": "istio-system"})
OUTSIDE = Pod("the world outside", address=WORLD)
FRONT, BACK = (Pod(f"gateway {name}", {GATEWAY: name}, OURS) for name in ("genadapter", "genadapter-engines"))
STRANGER = Pod("a pod of no component", namespace=OURS)


def check(objects: list[Object]) -> list[str]:
    pods = {pod.labels[COMPONENT]: pod for pod in _pods(objects)}
    policies = [item["spec"] for item in objects if item["kind"] == "NetworkPolicy"]
    kinds = {item["kind"] for item in objects}
    components = {
        "gateway": "Gateway" in kinds,
        "monitoring": "PodMonitor" in kinds,
        "tracing": any("OTEL_EXPORTER_OTLP_ENDPOINT" in item.get("data", {}) for item in objects),
    }
    faults = [
        f"NetworkPolicies keep {source.name} from {target.name}, port {port}"
        for source, target, port in _wanted(pods, components)
        if not _passes(policies, source, target, port)
    ]
    return faults + [
        f"NetworkPolicies let {source.name} reach {target.name}, port {port}"
        for source, target, port in _unwanted(pods)
        if _passes(policies, source, target, port)
    ]


def _pods(objects: list[Object]) -> Iterator[Pod]:
    for item in objects:
        if template := item.get("spec", {}).get("template"):
            ports = {
                port["name"]: port["containerPort"]
                for container in template["spec"]["containers"]
                for port in container.get("ports", [])
            }
            labels = template["metadata"]["labels"]
            yield Pod(labels[COMPONENT], labels, OURS, ports)


def _wanted(pods: dict[str, Pod], components: dict[str, bool]) -> Iterator[Flow]:
    contextualize, generate, engine = (pods[name] for name in ("contextualize", "generate", "engine"))
    for pod in pods.values():
        yield pod, DNS, 53
        yield pod, NODE_DNS, 53
    yield INGRESS, contextualize, HTTP
    yield INGRESS, generate, HTTP
    yield generate, engine, ENGINE
    readers = [contextualize, generate, engine, *(pods[name] for name in ("redis-exporter",) if name in pods)]
    for pod in readers:
        yield from [(pod, pods["redis"], STORE)] if "redis" in pods else [(pod, OUTSIDE, p) for p in (STORE, STORE_TLS)]
    if "models" in pods:
        yield pods["models"], OUTSIDE, 443
    if components["monitoring"]:
        ports = {"genadapter": HTTP, "genadapter-engine": ENGINE, "genadapter-redis": EXPORTER}
        yield from ((PROMETHEUS, pod, ports[pod.labels[JOB]]) for pod in pods.values() if JOB in pod.labels)
    if components["tracing"]:
        yield from ((pod, COLLECTOR, 4318) for pod in (contextualize, generate, engine))
    if components["gateway"]:
        picker = pods["endpoint-picker"]
        yield from [
            (OUTSIDE, FRONT, 443),
            (FRONT, contextualize, HTTP),
            (FRONT, generate, HTTP),
            (generate, BACK, 8080),
        ]
        yield from [(BACK, engine, ENGINE), (BACK, picker, 9002), (picker, engine, ENGINE), (picker, OUTSIDE, 443)]
        yield from ((gateway, who, port) for gateway in (FRONT, BACK) for who, port in ((ISTIOD, 15012), (DNS, 53)))


def _unwanted(pods: dict[str, Pod]) -> Iterator[Flow]:
    for source in (pods["contextualize"], INGRESS, BESIDE_PROMETHEUS, FRONT, STRANGER, OUTSIDE):
        yield source, pods["engine"], ENGINE
    for source in (INGRESS, PROMETHEUS, STRANGER, OUTSIDE):
        if "redis" in pods:
            yield source, pods["redis"], STORE
    for pod in (pods["contextualize"], pods["generate"], pods["engine"], STRANGER):
        yield pod, OUTSIDE, 443
        yield OUTSIDE, pod, HTTP


def _passes(policies: list[Object], source: Pod, target: Pod, port: int) -> bool:
    out = _direction(policies, "egress", "to", source, target, (target, port))
    return out and _direction(policies, "ingress", "from", target, source, (target, port))


def _direction(policies: list[Object], way: str, side: str, pod: Pod, other: Pod, goal: tuple[Pod, int]) -> bool:
    """A pod that no policy of this direction selects may do anything; policies add up."""
    if pod.namespace != OURS:
        return True
    chosen = [
        policy
        for policy in policies
        if way.capitalize() in policy["policyTypes"] and _selects(policy["podSelector"], pod.labels)
    ]
    rules = [rule for policy in chosen for rule in policy.get(way, [])]
    return not chosen or any(
        (side not in rule or any(_is_peer(peer, other) for peer in rule[side])) and _is_port(rule, *goal)
        for rule in rules
    )


def _is_peer(peer: Object, pod: Pod) -> bool:
    if block := peer.get("ipBlock"):
        return bool(pod.address) and ipaddress.ip_address(pod.address) in ipaddress.ip_network(block["cidr"])
    if pod.address:
        return False
    here = _selects(peer["namespaceSelector"], pod.namespace) if "namespaceSelector" in peer else pod.namespace == OURS
    return here and _selects(peer.get("podSelector", {}), pod.labels)


def _is_port(rule: Object, target: Pod, port: int) -> bool:
    wanted = [entry.get("port", port) for entry in rule.get("ports", [{}])]
    return any((target.ports.get(name) if isinstance(name, str) else name) == port for name in wanted)


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    for rule in selector.get("matchExpressions", []):
        if rule["key"] not in labels or (rule["operator"] == "In" and labels[rule["key"]] not in rule["values"]):
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()
