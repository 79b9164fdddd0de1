"""Run every benchmark with its defaults: python -m bench."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("bench.adapters",)


def main() -> int:
    return max(subprocess.run([sys.executable, "-m", name], check=False).returncode for name in BENCHMARKS)


if __name__ == "__main__":
    sys.exit(main())
