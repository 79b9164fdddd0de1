#!/usr/bin/env bash
# Known vulnerabilities of what the locks name: locks/cpu.txt, or the files given. Ends with 1 when there are some, 2 offline.
set -uo pipefail
cd "$(dirname "$0")/.."
pip_audit=2.10.1
pip_setting() { .venv/bin/python -m pip config get "global.$1" 2>/dev/null || true; }
index_url="${PIP_INDEX_URL:-$(pip_setting index-url)}"
[ -z "$index_url" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index_url}"

# A version's local part (+cpu) is known to no database.
plain=$(mktemp)
trap 'rm -f "$plain" "$plain.said"' EXIT
cat "${@:-locks/cpu.txt}" | sed -nE 's/^([A-Za-z0-9._-]+)==([^+ ;\\]+)[^ ;\\]*.*/\1==\2/p' | sort -u >"$plain"
echo "audit: $(wc -l <"$plain") packages of ${*:-locks/cpu.txt}"
# --strict: a package that the database does not answer for is no clean package.
.venv/bin/uv tool run --quiet --from "pip-audit==$pip_audit" pip-audit --strict --no-deps --disable-pip --progress-spinner off \
    --requirement "$plain" 2>"$plain.said"
code=$?
unreachable='ConnectionError|Connection refused|resolve|timed out|Max retries|error sending request|dns error|HTTPError|not found on PyPI'
if [ $code -ne 0 ] && grep -qiE "$unreachable" "$plain.said"; then
    tail -n 1 "$plain.said" >&2
    echo "audit: NOT DONE: the database of vulnerabilities, or the registry that has pip-audit, does not answer from here." >&2
    exit 2
fi
grep -vE '^(WARNING|INFO):' "$plain.said" | tail -n 3
exit $code
