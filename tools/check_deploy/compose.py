"""docker-compose.yml and its override: valid, and as closed as they promise to be."""

from __future__ import annotations

from typing import Any

import yaml
from common import BIN, PINNED_IMAGE, ROOT, run, unknown_variables

FILES = ("docker-compose.yml", "docker-compose.gpu.yml")
PUBLISHED = {"service", "grafana"}
# Compiles what it then loads, which a tmpfs of Docker's own options does not allow.
COMPILES = {"engine"}
# Ships no shell to run a check with; what it reports is checked by the alert on redis_up.
WITHOUT_HEALTH = {"redis-exporter"}


def check() -> list[str]:
    code, output = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", *FILES)
    faults = output.splitlines() if code else []
    base, override = (yaml.safe_load((ROOT / name).read_text()) for name in FILES)
    faults += [
        f"the override changes {name}, which is not there"
        for name in override["services"]
        if name not in base["services"]
    ]
    for name, service in base["services"].items():
        faults += [f"{name}: {fault}" for fault in _faults(name, service, base)]
        extra = override["services"].get(name, {})
        faults += [
            f"{name}: {variable} is no setting" for variable in unknown_variables(list(extra.get("environment", {})))
        ]
    return faults


def _faults(name: str, service: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    faults = []
    if not PINNED_IMAGE.fullmatch(service["image"]):
        faults.append(f"image {service['image']} is not pinned")
    for key, wanted in {
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
    }.items():
        if service.get(key) != wanted:
            faults.append(f"{key} is not {wanted}")
    if "build" not in service and service.get("user", "0").startswith("0"):
        faults.append("runs as root")
    if "build" not in service and name not in WITHOUT_HEALTH and "healthcheck" not in service:
        faults.append("has no health check")
    if name in COMPILES and not any(":exec," in mount for mount in service["tmpfs"]):
        faults.append("cannot load what it compiles below /tmp")
    if "ports" in service and name not in PUBLISHED:
        faults.append("publishes a port")
    if not {"cpus", "memory", "pids"} <= set(service["deploy"]["resources"]["limits"]):
        faults.append("has no limits")
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("./") and not (ROOT / source).exists():
            faults.append(f"mounts {source}, which is not there")
        if not source.startswith(".") and source not in whole["volumes"]:
            faults.append(f"volume {source} is not declared")
    for secret in service.get("secrets", []):
        if secret not in whole["secrets"]:
            faults.append(f"secret {secret} is not declared")
    for other, wait in service.get("depends_on", {}).items():
        if wait.get("condition") != "service_healthy":
            faults.append(f"does not wait for {other} to be healthy")
    if (build := service.get("build")) and not (ROOT / build["dockerfile"]).exists():
        faults.append(f"{build['dockerfile']} is not there")
    faults += [f"{variable} is no setting" for variable in unknown_variables(list(service.get("environment", {})))]
    return faults
