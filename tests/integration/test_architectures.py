"""Every family of base models that is promised: a generator's adapters, in vLLM as in transformers, for each target module
alone and for all together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from generator import load_generator
from generator.base_model import fingerprint_base
from generator.checkpoint import save_checkpoint
from generator.encode import attached
from generator.generator import load_base
from generator.model import GeneratorNetwork
from generator.training.settings import GeneratorSettings

pytestmark = pytest.mark.integration

MODULES = ("o_proj", "down_proj", "q_proj", "v_proj")
DOCUMENT = [3 + (5 * i * i) % 250 for i in range(60)]
PROMPT = [3 + (11 * i) % 250 for i in range(40)]
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, Any] = {
    "llama-2": lambda **common: LlamaConfig(**{**common, "num_key_value_heads": 2}),
    "llama-3": lambda **common: LlamaConfig(**common, rope_parameters=LLAMA_3_ROPE),
    "smollm": lambda **common: LlamaConfig(**{**common, "tie_word_embeddings": True}),
    "mistral": lambda **common: MistralConfig(**common, sliding_window=None),
    "qwen-2": lambda **common: Qwen2Config(**common),
    "qwen-3": lambda **common: Qwen3Config(**common),
    "gemma-3": lambda **common: Gemma3TextConfig(**common, sliding_window=32, query_pre_attn_scalar=32),
}


def make_base(family: str, folder: Path) -> None:
    torch.manual_seed(3)
    config = FAMILIES[family](
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def make_generator(base_folder: Path, folder: Path, modules: tuple[str, ...]) -> Any:
    base = load_base(base_folder, "cpu", torch.float32)
    settings = GeneratorSettings(str(base_folder), (0, 3), modules, r1=16, r2=16, max_rank=8, alpha=24.0, window=32)
    network = GeneratorNetwork(settings.to_config(base, fingerprint_base(base_folder)))
    for target, module in zip(network.config.targets, network.generators, strict=True):
        # The attention of a random model is almost even: only large queries change it.
        torch.nn.init.normal_(module.B, std=6.0 if target.name.endswith("q_proj") else 0.3)
    save_checkpoint(network, folder)
    return load_generator(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_and_transformers_agree(family: str, tmp_path: Path) -> None:
    make_base(family, tmp_path / "base")
    expected, rows = {}, {"": PROMPT}
    for name, modules in {**{module: (module,) for module in MODULES}, "together": MODULES}.items():
        generator = make_generator(tmp_path / "base", tmp_path / "generators" / name, modules)
        adapter = generator.contextualize(DOCUMENT, "parallel")
        adapter.save_peft(tmp_path / "adapters" / name)
        with torch.inference_mode():
            expected.setdefault("", generator.base(torch.tensor([PROMPT])).logits[0])
            with attached(generator.base, adapter.lora(), adapter.scaling):
                expected[name] = generator.base(torch.tensor([PROMPT])).logits[0]
        rows[name] = PROMPT
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    command = [sys.executable, "-m", "tests.integration.architectures", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    # Not the exit code: vLLM's threads were seen to abort the exit of a program that had written its result.
    assert (tmp_path / "found.json").is_file(), done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    for name, logits in expected.items():
        ours = torch.tensor([[position[str(t)] for t in range(256)] for position in found[name]])
        theirs = logits.log_softmax(-1)[:-1]
        assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-3, name
        if name:
            without = expected[""].log_softmax(-1)[:-1]
            assert ((theirs - without).norm() / without.norm()).item() > 0.01, f"{name} changes too little to be seen"
