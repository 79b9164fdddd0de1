"""Paths, tools and reading, shared by the parts."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
HOME = ROOT / "build/check-deploy"
BIN = Path(sys.executable).parent
# An image by tag or digest; what moves on its own is no version.
PINNED_IMAGE = re.compile(r"[^:@\s]+(/[^:@\s]+)*(:(?!latest$)[\w.+-]+|@sha256:[0-9a-f]{64})")
# Read by docker/start.py or by the plugin, and no settings of the service.
OTHER_VARIABLES = {"GENADAPTER_REDIS_URL_FILE", "GENADAPTER_ENGINE_API_KEY_FILE", "GENADAPTER_ADAPTER_CACHE_BYTES"}


class Skip(Exception):
    """A tool is missing; the message says which, and how to get it."""


def run(*command: str | Path, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and output; `environment` is added to ours."""
    variables = os.environ | (environment or {})
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=variables, capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr).strip()


def documents(text: str) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all(text) if item]


def npm_packages(*packages: str) -> Path:
    """A folder whose node_modules holds these; Skip without node, npm or a registry."""
    folder = HOME / "npm"
    wanted = "\n".join(packages)
    stamp = folder / "stamp"
    if not (shutil.which("node") and shutil.which("npm")):
        raise Skip("node and npm are not installed")
    if not stamp.exists() or stamp.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}\n')
        code, output = run("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", *packages, cwd=folder)
        if code:
            raise Skip(f"npm install failed: {output[-200:]}")
        stamp.write_text(wanted)
    return folder


def debian_program(package: str, program: str) -> Path:
    """On the path, or out of Debian's package, unpacked and not installed."""
    if found := shutil.which(program):
        return Path(found)
    folder = HOME / package
    unpacked = folder / "usr/bin" / program
    if not unpacked.exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Skip(f"{program} is not installed (Debian's package {package} has it)")
        folder.mkdir(parents=True, exist_ok=True)
        code, output = run("apt-get", "download", package, cwd=folder)
        packages = sorted(folder.glob(f"{package}_*.deb"))
        if code or not packages:
            raise Skip(f"{program} is not installed, and apt-get download {package} failed: {output[-200:]}")
        run("dpkg-deb", "-x", packages[0], folder)
        packages[0].unlink()
    return unpacked


@cache
def setting_names() -> frozenset[str]:
    """GENADAPTER_* variables that mean something, read from the source: its dependencies need not be installed here."""
    tree = ast.parse((ROOT / "service/settings.py").read_text())
    settings = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    fields = [
        item.target.id
        for item in settings.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]
    return frozenset(f"GENADAPTER_{name.upper()}" for name in fields) | OTHER_VARIABLES


def unknown_variables(names: list[str]) -> list[str]:
    return sorted(name for name in names if name.startswith("GENADAPTER_") and name not in setting_names())
