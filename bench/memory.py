"""Peak memory of one document's adapter, beyond the loaded models: python -m bench.memory ours|naive TOKENS"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLE_S = 0.002


def resident_bytes(process: int | str = "self", field: str = "VmRSS") -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def forget_peak(process: int) -> None:
    """The kernel's own record of the largest resident size (VmHWM) begins anew."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


class Peak:
    """The largest resident size while it is open, sampled."""

    def __enter__(self) -> Peak:
        self.before, self.peak = resident_bytes(), 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.peak = max(self.peak, resident_bytes())
            time.sleep(SAMPLE_S)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def naive(generator: Any, ids: list[int]) -> None:
    """All hidden states of the whole document at once, and a full SVD of every S."""
    import torch

    config = generator.config
    with torch.inference_mode():
        states = generator.base(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
        kept = []
        for target, module in zip(config.targets, generator.network.generators, strict=True):
            mask = torch.ones(1, len(ids))
            s = module.state(states[target.layer], states[0], mask)[0]
            u, _, vt = (part.to(module.B) for part in torch.linalg.svd(s, full_matrices=False))
            kept.append(module.B @ vt[: config.rank].mT @ u[:, : config.rank].mT @ module.A1)


def main() -> None:
    from generator import load_generator
    from generator.checkpoint import default_checkpoint
    from generator.generator import resolve_dtype

    kind, tokens = sys.argv[1], int(sys.argv[2])
    generator = load_generator(default_checkpoint(), dtype=resolve_dtype("auto", "cpu"))
    ids = [100 + i % 1000 for i in range(tokens)]
    works: dict[str, Callable[[], Any]] = {
        "ours": lambda: generator.contextualize(ids),
        "naive": lambda: naive(generator, ids),
    }
    generator.contextualize(ids[:64])  # what any pass needs once
    with Peak() as peak:
        works[kind]()
    print(json.dumps({"kind": kind, "tokens": tokens, "extra_bytes": peak.peak - peak.before}))


if __name__ == "__main__":
    main()
