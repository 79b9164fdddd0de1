"""Turn a run into the checkpoint that is given away: half precision, with what made it and what it reached beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from generator.checkpoint import load_network, save_checkpoint

RECORD_FILE = "training.json"
# In a run that went on from another one's checkpoint: that one's record.
CONTINUED_FILE = "continued_from.json"


def release(run: Path, out: Path, results: dict[str, Any] | None = None) -> None:
    """Write `run`'s latest checkpoint to `out` in float16, with `training.json`: settings, data fingerprints, steps, results.

    results: a report of `genadapter eval quality` on this very checkpoint. Raises FileNotFoundError for a run without one.
    """
    save_checkpoint(load_network(run / "checkpoint"), out, half=True)
    state = torch.load(run / "state.pt", weights_only=True)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    settings = json.loads((run / "settings.json").read_text())
    # Where things lay is the machine's affair; what they were, the fingerprints and the record continued from say.
    for table, name in (("data", "folder"), ("generator", "initialization")):
        settings[table][name] = Path(settings[table][name]).name
    record = {
        "steps": state["step"],
        "settings": settings,
        "held_out_while_training": [entry for entry in log if "held_out" in entry],
        "results": results,
    }
    if (run / CONTINUED_FILE).exists():
        record["continued_from"] = json.loads((run / CONTINUED_FILE).read_text())
    (out / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n")
