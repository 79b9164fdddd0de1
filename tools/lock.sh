#!/usr/bin/env bash
# Resolve pyproject.toml into locks/cpu.txt: every dependency of a machine without a GPU, with hashes.
# torch alone carries no hash: its CPU build has one file where pip's find-links folder holds it and another on PyTorch's index.
set -euo pipefail
cd "$(dirname "$0")/.."
find_links=$(python3 -m pip config get global.find-links 2>/dev/null || true)
export UV_FIND_LINKS="${UV_FIND_LINKS:-$find_links}"
# What is locked stays as it is where it can.
[ ! -f locks/cpu.txt ] || cp locks/cpu.txt locks/cpu.txt.new
.venv/bin/uv pip compile -q pyproject.toml --extra cpu --extra dev --override locks/overrides.txt \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
    --no-annotate --no-header --no-emit-index-url -o locks/cpu.txt.new
python3 - <<'PY'
import re, pathlib
new = pathlib.Path("locks/cpu.txt.new")
text = re.sub(r"^torch==([\d.]+)\S* \\\n(?:    --hash=\S+(?: \\)?\n)+", r"torch==\1+cpu\n", new.read_text(), flags=re.M)
pathlib.Path("locks/cpu.txt").write_text("# Made by tools/lock.sh from pyproject.toml and locks/overrides.txt.\n" + text)
new.unlink()
PY
