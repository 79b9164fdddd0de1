"""What can be known of a deployment without one. Each part is a function that gives the faults it found; see check_deploy.sh."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import compose
import dashboards
import images
import kubernetes
import live
import prometheus
from common import Skip

PARTS: dict[str, Callable[[], list[str]]] = {
    "images": images.check,
    "compose": compose.check,
    "kubernetes": kubernetes.check,
    "prometheus": prometheus.check,
    "dashboards": dashboards.check,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="check_deploy")
    parser.add_argument("parts", nargs="*", default=[], help=f"of {', '.join(PARTS)}; all when none is named")
    parser.add_argument(
        "--live", metavar="URL", help="a Prometheus that scrapes a running system: every query must have data"
    )
    parser.add_argument(
        "--all", action="store_true", help="with --live: those of uploads and refusals too, of which there were some"
    )
    options = parser.parse_args()
    parts = {name: PARTS[name] for name in options.parts or PARTS}
    if options.live:
        parts = {"live": lambda: live.check(options.live, all_of_them=options.all)}
    failed = False
    for name, check in parts.items():
        begin = time.monotonic()
        try:
            faults = check()
        except Skip as skipped:
            print(f"SKIP {name}: {skipped}")
            continue
        failed |= bool(faults)
        print(f"{'FAIL' if faults else 'ok  '} {name} ({time.monotonic() - begin:.1f} s)")
        for fault in faults:
            print(f"     {fault}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
