"""Checkpoints of the reference: what they say is read, what cannot be represented is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from generator.checkpoint import CheckpointError, load_network
from generator.fastlora import import_fastlora

FIELDS: dict[str, Any] = {
    "peft_type": "FASTLORA",
    "fastlora_alpha": 64,
    "fastlora_arch": "aassbb",
    "fastlora_gist_len": 0,
    "fastlora_inter_size": 6,
    "fastlora_max_rank": 4,
    "fastlora_merge": "pre-norm-sum",
    "fastlora_norm": "svd",
    "fastlora_r": 5,
    "fastlora_window": 16,
    "lora_r": 0,
    "target_modules": ["o_proj"],
}
SHAPES = {"A1": (6, 32), "A2": (6, 32), "A3": (5, 32), "B": (32, 5), "hidden_state_norm": (32,)}


def write(folder: Path, infix: str = "base_layer.", layers: int = 3, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**FIELDS, **changes}))
    prefix = "base_model.model.model.layers"
    tensors = {
        f"{prefix}.{layer}.{infix}self_attn.o_proj.fastlora_{part}.weight": torch.randn(shape)
        for layer in range(layers)
        for part, shape in SHAPES.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("infix", ["base_layer.", ""], ids=["newer", "older"])
def test_both_layouts_are_read(tiny_base: Callable[[str], Path], tmp_path: Path, infix: str) -> None:
    source = write(tmp_path / "theirs", infix)
    import_fastlora(source, tmp_path / "ours", base_model=str(tiny_base("llama")))
    config = load_network(tmp_path / "ours").config
    assert (config.r1, config.r2, config.max_rank, config.scaling, config.window) == (6, 5, 4, 64 / 5, 16)
    assert [target.name for target in config.targets] == [f"model.layers.{i}.self_attn.o_proj" for i in range(3)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fastlora_merge", "post-norm-sum"),
        ("fastlora_norm", "softmax"),
        ("fastlora_r", 0),
        ("fastlora_r", 7),
        ("fastlora_arch", "aabb"),
        ("fastlora_gist_len", 4),
        ("lora_r", 8),
        ("peft_type", "LORA"),
    ],
)
def test_what_cannot_be_represented_is_named(
    tiny_base: Callable[[str], Path], tmp_path: Path, field: str, value: Any
) -> None:
    source = write(tmp_path / "theirs", **{field: value})
    with pytest.raises(CheckpointError, match=field if value != 7 else "A3"):
        import_fastlora(source, tmp_path / "ours", base_model=str(tiny_base("llama")))


@pytest.mark.parametrize("layers", [2, 4])
def test_missing_or_surplus_layers_are_refused(tiny_base: Callable[[str], Path], tmp_path: Path, layers: int) -> None:
    source = write(tmp_path / "theirs", layers=layers)
    with pytest.raises(CheckpointError, match="target_modules"):
        import_fastlora(source, tmp_path / "ours", base_model=str(tiny_base("llama")))
