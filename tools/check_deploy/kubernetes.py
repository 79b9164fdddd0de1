"""Every overlay with every set of components: built, valid against the schemas, and in line with our policy."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import network
import references
from common import BIN, HOME, PINNED_IMAGE, ROOT, Skip, documents, npm_packages, run, unknown_variables

COMPONENTS = ("gateway-api", "keda", "monitoring", "redis", "redis-exporter", "tracing")
# The store inside brings its own.
EITHER_OR = {"redis", "redis-exporter"}
# The overlay for trying has its own store.
INCLUDED = {"cpu": {"redis"}, "gpu": set[str]()}
KUBERNETES_VERSION = "1.34"
CRD_PACKAGES = (
    "@kubernetes-models/gateway-api@2.0.0",
    "@kubernetes-models/keda@2.0.0",
    "@kubernetes-models/prometheus-operator@6.0.0",
)
# Custom resources: their groups are in no schema of Kubernetes itself.
CUSTOM_GROUPS = {"gateway.networking.k8s.io", "inference.networking.k8s.io", "keda.sh", "monitoring.coreos.com"}
# The only one that talks to the Kubernetes API.
WITH_TOKEN = {"genadapter-endpoint-picker"}
# One pod each, which may go at any time.
WITHOUT_BUDGET = {"genadapter-endpoint-picker", "genadapter-redis-exporter"}
NAMESPACE = "genadapter"
WITHOUT_NAMESPACE = {"Namespace", "PriorityClass"}
WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "Job"}
# Made by the operator (docs/operations.md), never committed.
SECRETS = {"genadapter-api-keys", "genadapter-redis", "genadapter-engine", "genadapter-tls", "genadapter-huggingface"}
SCALER_KEYS = {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "cooldownPeriod", "fallback", "triggers"}
Object = dict[str, Any]


def combinations() -> Iterator[tuple[str, tuple[str, ...]]]:
    for overlay, included in INCLUDED.items():
        free = [name for name in COMPONENTS if name not in included]
        for size in range(len(free) + 1):
            for chosen in itertools.combinations(free, size):
                if not included.union(chosen) >= EITHER_OR:
                    yield overlay, chosen


def check() -> list[str]:
    builds = HOME / "kustomize"
    shutil.rmtree(builds, ignore_errors=True)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda wanted: _build(builds, *wanted), combinations()))
    faults: list[str] = []
    seen: dict[str, Object] = {}
    for name, objects, fault in results:
        if fault:
            faults.append(f"{name}: {fault}")
            continue
        faults += [f"{name}: {text}" for text in _policy(objects)]
        seen |= {json.dumps(item, sort_keys=True): item for item in objects}
    # Most objects are the same in every build: each is validated once.
    faults += _schemas(list(seen.values()))
    print(f"     {len(results)} builds, {len(seen)} different objects")
    return list(dict.fromkeys(faults))


def _build(builds: Path, overlay: str, chosen: tuple[str, ...]) -> tuple[str, list[Object], str]:
    name = "+".join((overlay, *chosen))
    folder = builds / name
    folder.mkdir(parents=True)
    up = "../" * len(folder.relative_to(ROOT).parts)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": [f"{up}k8s/overlays/{overlay}"],
        "components": [f"{up}k8s/components/{component}" for component in chosen],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    code, output = run(BIN / "kubectl", "kustomize", folder)
    return name, [] if code else documents(output), output[-300:] if code else ""


def _schemas(objects: list[Object]) -> list[str]:
    faults = []
    custom = []
    for item in objects:
        group = item["apiVersion"].rpartition("/")[0]
        if group in CUSTOM_GROUPS:
            custom.append(item)
            continue
        try:
            kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            faults.append(f"{_name(item)}: {'.'.join(map(str, error.path))}: {error.message[:200]}")
    try:
        faults += _custom_schemas(custom)
    except Skip as skipped:
        print(f"     the schemas of custom resources are left out: {skipped}")
    return faults


def _custom_schemas(objects: list[Object]) -> list[str]:
    pool_schema = json.loads((ROOT / "tests/deploy/inference-pool.schema.json").read_text())
    faults = []
    for item in objects:
        if item["kind"] == "InferencePool":
            validator = jsonschema.Draft202012Validator(pool_schema)
            faults += [f"{_name(item)}: {error.json_path}: {error.message}" for error in validator.iter_errors(item)]
    folder = npm_packages(*CRD_PACKAGES)
    shutil.copy(ROOT / "tests/deploy/validate-custom.mjs", folder / "validate.mjs")
    others = [item for item in objects if item["kind"] != "InferencePool"]
    (folder / "objects.json").write_text(json.dumps(others))
    code, output = run("node", "validate.mjs", cwd=folder)
    return faults + (output.splitlines() if code else [])


def _policy(objects: list[Object]) -> list[str]:
    faults: list[str] = []
    names = {(item["kind"], item["metadata"]["name"]) for item in objects}
    for item in objects:
        if item["kind"] not in WITHOUT_NAMESPACE and item["metadata"].get("namespace") != NAMESPACE:
            faults.append(f"{_name(item)}: is in no namespace of ours")
        if item["kind"] == "Secret":
            faults.append(f"{_name(item)}: secrets are not committed")
        if item["kind"] == "ScaledObject" and SCALER_KEYS - item["spec"].keys():
            # An unknown key is dropped in silence by the API server, so a misspelt one shows here only.
            faults.append(f"{_name(item)}: lacks {', '.join(sorted(SCALER_KEYS - item['spec'].keys()))}")
        if item["kind"] in WORKLOADS:
            faults += [f"{_name(item)}: {fault}" for fault in _workload(item, names)]
    pods = [item["spec"]["template"]["metadata"]["labels"] for item in objects if item["kind"] in WORKLOADS]
    for item in objects:
        selector = item.get("spec", {}).get("selector") if item["kind"] in ("Service", "PodDisruptionBudget") else None
        labels = (selector or {}).get("matchLabels", selector)
        if labels and not any(labels.items() <= pod.items() for pod in pods):
            faults.append(f"{_name(item)}: selects no pod")
    budgets = [item["spec"]["selector"]["matchLabels"] for item in objects if item["kind"] == "PodDisruptionBudget"]
    for item in objects:
        labels = item.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})
        covered = (
            any(budget.items() <= labels.items() for budget in budgets) or item["metadata"]["name"] in WITHOUT_BUDGET
        )
        if item["kind"] in ("Deployment", "StatefulSet") and not covered:
            faults.append(f"{_name(item)}: has no PodDisruptionBudget")
    denied = [
        item
        for item in objects
        if item["kind"] == "NetworkPolicy"
        and item["spec"]["podSelector"] == {}
        and "ingress" not in item["spec"]
        and "Ingress" in item["spec"]["policyTypes"]
    ]
    if not denied:
        faults.append("no NetworkPolicy denies what is not allowed")
    faults += network.check(objects) + references.check(objects)
    level = next(
        item["metadata"]["labels"].get("pod-security.kubernetes.io/enforce")
        for item in objects
        if item["kind"] == "Namespace"
    )
    return faults if level == "restricted" else [*faults, "the namespace does not enforce restricted"]


def _workload(item: Object, names: set[tuple[str, str]]) -> list[str]:
    pod = item["spec"]["template"]["spec"]
    faults = []
    security = pod.get("securityContext", {})
    if (
        security.get("runAsNonRoot") is not True
        or not security.get("runAsUser")
        or security.get("seccompProfile", {}).get("type") != "RuntimeDefault"
    ):
        faults.append("may run as root, or without seccomp")
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        faults.append("uses the host's namespaces")
    token = pod.get("automountServiceAccountToken", True)
    if token and item["metadata"]["name"] not in WITH_TOKEN:
        faults.append("has a token for the Kubernetes API")
    if item["kind"] != "Job" and ("PriorityClass", pod.get("priorityClassName")) not in names:
        faults.append("has no priority")
    if ("ServiceAccount", pod.get("serviceAccountName")) not in names:
        faults.append("names no service account of ours")
    for volume in pod.get("volumes", []):
        faults += _volume(volume, names)
    for container in pod["containers"] + pod.get("initContainers", []):
        faults += [f"{container['name']}: {fault}" for fault in _container(container, pod, item["kind"], names)]
    return faults


def _volume(volume: Object, names: set[tuple[str, str]]) -> list[str]:
    faults = []
    if "hostPath" in volume:
        faults.append(f"volume {volume['name']} is a path of the host")
    if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
        faults.append(f"volume {volume['name']} has no limit")
    for source in volume.get("projected", {}).get("sources", [volume]):
        secret = source.get("secret", {})
        secret_name = secret.get("name") or secret.get("secretName")
        if secret_name and secret_name not in SECRETS:
            faults.append(f"secret {secret_name} is not described in docs/operations.md")
        if (name := source.get("configMap", {}).get("name")) and ("ConfigMap", name) not in names:
            faults.append(f"there is no ConfigMap {name}")
    claim = volume.get("persistentVolumeClaim", {}).get("claimName")
    if claim and ("PersistentVolumeClaim", claim) not in names:
        faults.append(f"there is no claim {claim}")
    return faults


def _container(container: Object, pod: Object, kind: str, names: set[tuple[str, str]]) -> list[str]:
    faults = []
    if not PINNED_IMAGE.fullmatch(container["image"]):
        faults.append(f"image {container['image']} is not pinned")
    security = container.get("securityContext", {})
    if (
        security.get("allowPrivilegeEscalation") is not False
        or not security.get("readOnlyRootFilesystem")
        or security.get("capabilities", {}).get("drop") != ["ALL"]
    ):
        faults.append("is not restricted")
    resources = container.get("resources", {})
    if "memory" not in resources.get("limits", {}) or not {"cpu", "memory"} <= set(resources.get("requests", {})):
        faults.append("has no requests or no limit of memory")
    if kind != "Job" and not all(f"{probe}Probe" in container for probe in ("startup", "readiness", "liveness")):
        faults.append("lacks a probe")
    variables = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
    faults += [f"{name} is no setting" for name in unknown_variables(list(variables))]
    if grace := variables.get("GENADAPTER_SHUTDOWN_GRACE"):
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        drains = 1 if container["name"] == "engine" else 2
        if pod["terminationGracePeriodSeconds"] <= pause + drains * int(grace.removesuffix("s")):
            faults.append("is killed before its drain is over")
    for source in container.get("envFrom", []):
        if ("ConfigMap", source["configMapRef"]["name"]) not in names:
            faults.append(f"there is no ConfigMap {source['configMapRef']['name']}")
    mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
    declared = {volume["name"] for volume in pod.get("volumes", [])}
    if kind != "StatefulSet" and mounted - declared:
        faults.append(f"mounts {mounted - declared}, which is not declared")
    return faults


def _name(item: Object) -> str:
    return f"{item['kind']} {item['metadata']['name']}"
