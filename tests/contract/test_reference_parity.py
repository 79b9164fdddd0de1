"""The numbers of the reference implementation, read from a folder that GENADAPTER_PARITY names (../shared/upstream-parity)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from generator import load_generator
from generator.encode import attached

FOLDER = Path(os.environ.get("GENADAPTER_PARITY", Path(__file__).parents[3] / "shared" / "upstream-parity"))
CASES = sorted(path.parent for path in FOLDER.glob("*/case.json"))
# What the reference calls its two forms of `sequential` is one thing here.
STRATEGIES = {"concat": "concat", "parallel": "parallel", "sequential": "sequential", "sequential-long": "sequential"}

pytestmark = pytest.mark.skipif(not CASES, reason="the reference's numbers are not beside this checkout")


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", STRATEGIES)
def test_reference(case: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    generator = load_generator(case / "adapter_generator", base_model=case / "base")
    expected = load_file(case / "expected.safetensors")
    assert generator.config.window == json.loads((case / "case.json").read_text())["window"]
    adapter = generator.contextualize(expected["context_ids"], STRATEGIES[name])
    lora = adapter.lora()
    with torch.no_grad(), attached(generator.base, lora, adapter.scaling):
        logits = generator.base(expected["prompt_ids"][None]).logits[0]
    assert relative(logits, expected[f"{name}/logits"]) < 1e-3
    for index, target in enumerate(generator.config.targets):
        a, b = lora[target.name]
        assert relative(b @ a * adapter.scaling, expected[f"{name}/{target.name}/delta"]) < 1e-3
        if name == "concat" and adapter.state is not None:
            assert relative(adapter.state.s[index], expected[f"concat/{target.name}/state"]) < 1e-4
