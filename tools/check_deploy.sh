#!/usr/bin/env bash
# `make check-deploy`: everything about images, manifests, rules and dashboards that can be checked without a cluster. Its tools
# live in build/check-deploy, apart from .venv. A tool that is not there and cannot be fetched skips its part, and says so.
#   tools/check_deploy.sh [images compose kubernetes prometheus dashboards] [--live http://127.0.0.1:9090 [--all]]
set -euo pipefail
cd "$(dirname "$0")/.."
home=build/check-deploy
mkdir -p "$home"
stamp=$(sha256sum locks/deploy.txt | cut -d' ' -f1)
if [ "$(cat "$home/stamp" 2>/dev/null)" != "$stamp" ]; then
    python3 -m venv --clear "$home/venv"
    "$home/venv/bin/pip" install --quiet --no-deps --require-hashes -r locks/deploy.txt || {
        echo "the tools in locks/deploy.txt cannot be installed (see above); nothing was checked" >&2
        exit 1
    }
    echo "$stamp" >"$home/stamp"
fi
exec "$home/venv/bin/python" tools/check_deploy "$@"
