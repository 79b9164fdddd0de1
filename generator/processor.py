"""What the processor is good for, known without loading torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

CPU_FLAGS = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def quickest(device: str) -> Literal["float32", "bfloat16"]:
    """bfloat16 on GPUs and on CPUs with instructions for it, float32 on all others. With them, documents are read in 0.6 of
    float32's time (two cores with AVX-512), and their adapters know as much; without them the products of a step with 32 rows
    take five times as long in bfloat16 as in float32 (two cores with AVX2)."""
    return "float32" if device.startswith("cpu") and not cpu_has_bfloat16() else "bfloat16"


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16."""
    return bool(BFLOAT16_FLAGS & cpu_flags())


def cpu_flags() -> frozenset[str]:
    """The instruction sets that Linux names, among the other words of its description."""
    return frozenset(CPU_FLAGS.read_text().split() if CPU_FLAGS.is_file() else ())


def usable_cores() -> int:
    """Threads that compute at once: as many as the cores that this process may run on, and no more than its container's limit.
    torch knows only of the first: with a thread for each of 16 cores and the time of two, all stand still most of the time."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(int, _limits())]))


def _limits() -> Iterator[float]:
    """Cores' worth of time that each control group around this process has."""
    groups = OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.is_file() else []
    for _, controllers, path in (line.split(":", 2) for line in groups):
        if not controllers:
            root, names = GROUPS, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            root, names = GROUPS / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # In a container the path may be the host's, and the root the container's own group.
        group = root / path.lstrip("/")
        for folder in {root, *(folder for folder in (group, *group.parents) if folder.is_relative_to(root))}:
            if all((folder / name).is_file() for name in names):
                quota, period = " ".join((folder / name).read_text() for name in names).split()
                if quota.isdecimal():  # not "max", and not -1
                    yield int(quota) / int(period)
