"""Stored adapters: what is written is read, what is damaged is refused, and PEFT loads the export."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from generator import load_generator
from generator.adapter import DamagedAdapter, expand, read_header
from generator.checkpoint import CheckpointError, load_expander
from generator.config import ConfigError, GeneratorConfig
from generator.encode import attached
from generator.generator import Generator, load_base

DOCUMENT = list(range(1, 60))


def test_stored_bytes_expand_to_the_adapter(tiny_generator: Callable[..., Generator], tmp_path: Path) -> None:
    adapter = tiny_generator(key_shift=1).contextualize(DOCUMENT)
    data = adapter.to_bytes()
    header = read_header(data)
    lora = expand(data, load_expander(tmp_path / "checkpoint"))
    assert (header["tokens"], header["chunks"], header["rank"]) == ("59", str(adapter.chunks), "6")
    assert lora.alpha / lora.rank == pytest.approx(adapter.scaling)
    for name, (a, b) in adapter.lora().items():
        torch.testing.assert_close(lora.tensors[name][0], a, rtol=0.02, atol=0.02)  # bf16 factors
        torch.testing.assert_close(lora.tensors[name][1], b, rtol=0.02, atol=0.02)


def test_targets_expanded_side_by_side_come_in_order(tiny_generator: Callable[..., Generator], tmp_path: Path) -> None:
    data = tiny_generator().contextualize(DOCUMENT).to_bytes()
    expander = load_expander(tmp_path / "checkpoint")
    with ThreadPoolExecutor(2) as pool:
        beside = expand(data, expander, each=pool.map).tensors
    alone = expand(data, expander).tensors
    assert list(beside) == list(alone) == [target.name for target in expander.config.targets]
    for name in alone:
        torch.testing.assert_close(beside[name], alone[name])


@pytest.mark.parametrize(("tokens", "rank"), [([7], 1), ([7, 8, 9], 3), (DOCUMENT, 6)])
def test_directions_that_a_short_document_lacks_are_left_out(
    tiny_generator: Callable[..., Generator], tmp_path: Path, tokens: list[int], rank: int
) -> None:
    data = tiny_generator().contextualize(tokens).to_bytes()
    expander = load_expander(tmp_path / "checkpoint")
    lora, trimmed = expand(data, expander), expand(data, expander, trim=True)
    assert (trimmed.rank, lora.rank) == (rank, 6)
    assert trimmed.alpha / trimmed.rank == pytest.approx(lora.alpha / lora.rank)
    for name, (a, b) in trimmed.tensors.items():
        whole_a, whole_b = lora.tensors[name]
        assert a.shape[0] == b.shape[1] == trimmed.rank
        torch.testing.assert_close(b @ a, whole_b @ whole_a)


@pytest.mark.parametrize("where", [0, 3, 40, -1, -400])
def test_damaged_bytes_are_refused(tiny_generator: Callable[..., Generator], tmp_path: Path, where: int) -> None:
    data = bytearray(tiny_generator().contextualize(DOCUMENT).to_bytes())
    data[where] ^= 0x5A
    with pytest.raises(DamagedAdapter):
        expand(bytes(data), load_expander(tmp_path / "checkpoint"))


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"\x10\0\0\0\0\0\0\0{}", b"\xff" * 64])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedAdapter):
        read_header(data)


def test_another_generators_adapter_is_refused(tiny_generator: Callable[..., Generator], tmp_path: Path) -> None:
    data = tiny_generator().contextualize(DOCUMENT).to_bytes()
    tiny_generator(alpha=7.0)
    with pytest.raises(ValueError, match="another generator"):
        expand(data, load_expander(tmp_path / "checkpoint"))


@pytest.mark.parametrize("modules", [("o_proj",), ("o_proj", "down_proj", "q_proj", "v_proj")])
def test_peft_gives_the_same_logits(
    tiny_generator: Callable[..., Generator], tmp_path: Path, modules: tuple[str, ...]
) -> None:
    generator = tiny_generator(modules=modules)
    adapter = generator.contextualize(DOCUMENT)
    adapter.save_peft(tmp_path / "peft")
    prompt = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        bare = generator.base(prompt).logits
        with attached(generator.base, adapter.lora(), adapter.scaling):
            ours = generator.base(prompt).logits
        base = load_base(Path(generator.config.base_model), "cpu", torch.float32)
        theirs = PeftModel.from_pretrained(base, tmp_path / "peft")(prompt).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    assert (ours - bare).abs().max() > 1e-2


def test_a_checkpoint_is_for_its_base_model_alone(
    tiny_generator: Callable[..., Generator], tiny_base: Callable[[str], Path], tmp_path: Path
) -> None:
    tiny_generator("llama")
    with pytest.raises(CheckpointError, match="another base model"):
        load_generator(tmp_path / "checkpoint", base_model=tiny_base("mistral"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("norm", "softmax"), ("r1", 0), ("key_shift", 2), ("strategy", "all"), ("targets", []), ("alpha", -1)],
)
def test_a_configuration_that_makes_no_sense_names_its_field(
    tiny_generator: Callable[..., Generator], field: str, value: object
) -> None:
    import json

    data = json.loads(tiny_generator().config.to_json())
    data[field] = value
    with pytest.raises(ConfigError, match=field):
        GeneratorConfig.from_json(json.dumps(data))


@pytest.mark.parametrize("ids", [[], [64], [-1]])
def test_ids_that_the_model_does_not_know(tiny_generator: Callable[..., Generator], ids: list[int]) -> None:
    with pytest.raises(ValueError, match="token"):
        tiny_generator().contextualize([ids])


def test_reading_a_header_loads_no_torch() -> None:
    code = "import sys, generator.adapter, generator.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("modules", [("o_proj",), ("down_proj", "q_proj")])
def test_sizes_are_as_the_operations_page_computes_them(
    tiny_generator: Callable[..., Generator], tmp_path: Path, modules: tuple[str, ...]
) -> None:
    generator = tiny_generator(modules=modules)
    config = generator.config
    adapter = generator.contextualize(DOCUMENT)
    count, k = len(config.targets), config.rank
    widths = sum(target.d_in + target.d_out for target in config.targets)
    assert 0 <= len(adapter.to_bytes()) - 2 * count * k * (config.r1 + config.r2) < 3 * 1024
    assert adapter.state is not None
    state = generator.state_to_bytes(adapter.state)
    assert 0 <= len(state) - 4 * count * config.r1 * config.r2 < 1024
    lora = expand(adapter.to_bytes(), generator.expander)
    for dtype in (torch.float32, torch.bfloat16):  # the engine's
        lora.to(dtype).save_peft(tmp_path / "peft", config.base_model)
        size = (tmp_path / "peft" / "adapter_model.safetensors").stat().st_size
        assert 0 <= size - dtype.itemsize * k * widths < 1024 + 300 * count
