"""Names and ports by which objects speak of each other: each leads somewhere. No schema says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from common import unknown_variables

Object = dict[str, Any]
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# The engine has no use for it; it comes with the settings that all share.
NOT_READ = {("engine", "GENADAPTER_API_KEYS_FILE")}


def check(objects: list[Object]) -> list[str]:
    found = {(item["kind"], item["metadata"]["name"]): item for item in objects}
    pods = [item["spec"]["template"] for item in objects if "template" in item.get("spec", {})]
    checks = {
        "Service": _service,
        "HTTPRoute": _route,
        "Ingress": _ingress,
        "InferencePool": _pool,
        "ScaledObject": _scaler,
        "Deployment": _workload,
        "StatefulSet": _workload,
    }
    faults = [
        f"{item['kind']} {item['metadata']['name']}: {fault}"
        for item in objects
        if item["kind"] in checks
        for fault in checks[item["kind"]](item, found, pods)
    ]
    for (kind, name), item in found.items():
        if kind == "ConfigMap":
            faults += [
                f"ConfigMap {name}: {variable} is no setting" for variable in unknown_variables(list(item["data"]))
            ]
    return faults


def _ports(pods: list[Object], labels: Object) -> set[str | int]:
    """Names and numbers of the ports of the pods with these labels."""
    return {
        port[key]
        for pod in pods
        if labels.items() <= pod["metadata"]["labels"].items()
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
        for key in ("name", "containerPort")
    }


def _service(item: Object, found: Object, pods: list[Object]) -> Iterator[str]:
    ports = _ports(pods, item["spec"]["selector"])
    yield from (
        f"its pods have no port {port['targetPort']}"
        for port in item["spec"]["ports"]
        if port["targetPort"] not in ports
    )


def _backend(found: Object, name: str, port: str | int) -> Iterator[str]:
    service = found.get(("Service", name))
    if service is None or all(port not in (entry["name"], entry["port"]) for entry in service["spec"]["ports"]):
        yield f"there is no service {name} with port {port}"


def _route(item: Object, found: Object, pods: list[Object]) -> Iterator[str]:
    for parent in item["spec"]["parentRefs"]:
        gateway = found.get(("Gateway", parent["name"]), {"spec": {"listeners": []}})
        if parent["sectionName"] not in [listener["name"] for listener in gateway["spec"]["listeners"]]:
            yield f"there is no gateway {parent['name']} with a listener {parent['sectionName']}"
    for backend in (backend for rule in item["spec"]["rules"] for backend in rule["backendRefs"]):
        if backend.get("kind", "Service") == "Service":
            yield from _backend(found, backend["name"], backend["port"])
        elif (backend["kind"], backend["name"]) not in found:
            yield f"there is no {backend['kind']} {backend['name']}"


def _ingress(item: Object, found: Object, pods: list[Object]) -> Iterator[str]:
    for path in (path for rule in item["spec"]["rules"] for path in rule["http"]["paths"]):
        service = path["backend"]["service"]
        yield from _backend(found, service["name"], service["port"].get("name") or service["port"]["number"])


def _pool(item: Object, found: Object, pods: list[Object]) -> Iterator[str]:
    ports = _ports(pods, item["spec"]["selector"]["matchLabels"])
    yield from (
        f"its pods have no port {port['number']}" for port in item["spec"]["targetPorts"] if port["number"] not in ports
    )
    picker = item["spec"]["endpointPickerRef"]
    yield from _backend(found, picker["name"], picker["port"]["number"])


def _scaler(item: Object, found: Object, pods: list[Object]) -> Iterator[str]:
    target = found.get(("Deployment", item["spec"]["scaleTargetRef"]["name"]))
    if target is None:
        yield "scales nothing"
    elif "replicas" in target["spec"]:
        yield "each apply would set its target's replicas back"


def _workload(item: Object, found: Object, pods: list[Object]) -> Iterator[str]:
    pod = item["spec"]["template"]["spec"]
    for container in pod["containers"]:
        ports = {port[key] for port in container.get("ports", []) for key in ("name", "containerPort")}
        for probe in (container[name] for name in PROBES if name in container):
            for way in ("httpGet", "tcpSocket", "grpc"):
                if way in probe and probe[way]["port"] not in ports:
                    yield f"{container['name']}: a probe asks port {probe[way]['port']}, which it has not"
        files = _files(pod, container)
        for name, value in _variables(container, found):
            if name.endswith("_FILE") and (container["name"], name) not in NOT_READ and value not in files:
                yield f"{container['name']}: {name} names {value}, which no volume brings"


def _variables(container: Object, found: Object) -> Iterator[tuple[str, str]]:
    for source in container.get("envFrom", []):
        yield from found[("ConfigMap", source["configMapRef"]["name"])]["data"].items()
    yield from ((entry["name"], entry["value"]) for entry in container.get("env", []) if "value" in entry)


def _files(pod: Object, container: Object) -> set[str]:
    """What the secrets' volumes of a container hold."""
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    return {
        f"{mount['mountPath']}/{entry['path']}"
        for mount in container.get("volumeMounts", [])
        for volume in [volumes.get(mount["name"], {})]
        for source in volume.get("projected", {}).get("sources", [volume])
        for entry in source.get("secret", {}).get("items", [])
    }
