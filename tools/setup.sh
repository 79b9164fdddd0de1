#!/usr/bin/env bash
# Create or refresh .venv from locks/cpu.txt. Needs a Python >= 3.11 with venv, nothing else. Quick when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
uv_version=0.13.9

stamp=.venv/.genadapter-setup
want=$(cat locks/cpu.txt pyproject.toml tools/setup.sh | sha256sum | cut -d' ' -f1)-$(pwd | sha256sum | cut -c1-8)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then exit 0; fi

say() { printf '\033[1m[setup %3ds]\033[0m %s\n' "$SECONDS" "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
free_kib() { df -Pk . | awk 'NR==2 {print $4}'; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python 3.11 or newer is needed; '$python' is $("$python" --version 2>/dev/null || echo missing). Set PYTHON=/path/to/python3.11."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "this Python has no venv module; on Debian or Ubuntu: apt-get install python3-venv"
[ "$(uname -sm)" = "Linux x86_64" ] || fail "the CPU engine is built for Linux x86-64; this is $(uname -sm)."
free=$(free_kib)
[ -d .venv ] || [ "$free" -gt 6000000 ] ||
    fail "about 6 GB of disk are needed here, $((free / 1024)) MB are free: free some, or clone onto another disk."

say "virtual environment in .venv"
[ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
.venv/bin/python -m pip install --quiet "uv==$uv_version" ||
    fail "the package registry cannot be reached (see above): check the connection, or name a mirror with PIP_INDEX_URL."

# uv reads none of pip's configuration: hand over what decides where packages come from.
pip_setting() { .venv/bin/python -m pip config get "global.$1" 2>/dev/null || true; }
find_links="${PIP_FIND_LINKS:-$(pip_setting find-links)}"
index_url="${PIP_INDEX_URL:-$(pip_setting index-url)}"
[ -z "$index_url" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index_url}"
torch_source=(--torch-backend cpu)
for folder in $find_links; do
    if compgen -G "$folder/torch-*+cpu*.whl" >/dev/null; then
        export UV_FIND_LINKS="$folder"
        torch_source=()
    fi
done

say "installing $(grep -cE '^[a-zA-Z0-9]' locks/cpu.txt) locked packages (vLLM, torch and their friends; a few minutes the first time)"
while sleep 20 >/dev/null 2>&1; do say "still installing, $(((free - $(free_kib)) / 1024)) MB so far"; done &
trap "kill $! 2>/dev/null || true" EXIT
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --compile-bytecode "${torch_source[@]}" -r locks/cpu.txt ||
    fail "installation stopped, see above: check the connection and the disk; running it again goes on from here."
kill $! 2>/dev/null || true
trap - EXIT
say "installing genadapter itself"
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
say "compiling bytecode (vLLM starts three times slower without)"
env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -m compileall -q -j 0 service generator >/dev/null || true
echo "$want" >"$stamp"
say "ready"
