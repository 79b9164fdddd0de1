"""Tiny random base models and generators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from generator import load_generator
from generator.base_model import fingerprint_base
from generator.checkpoint import save_checkpoint
from generator.generator import Generator, load_base
from generator.model import GeneratorNetwork
from generator.training.settings import GeneratorSettings

ARCHITECTURES: dict[str, type[PretrainedConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gemma": GemmaConfig,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Matrices of 32 columns: a second thread costs more than it brings."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """architecture -> folder of a random model of 3 layers, width 32."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            torch.manual_seed(0)
            config = ARCHITECTURES[architecture](
                vocab_size=64,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                max_position_embeddings=256,
                tie_word_embeddings=False,
            )
            made[architecture] = tmp_path_factory.mktemp(architecture)
            AutoModelForCausalLM.from_config(config).save_pretrained(made[architecture])
        return made[architecture]

    return make


@pytest.fixture
def tiny_generator(tiny_base: Callable[[str], Path], tmp_path: Path) -> Callable[..., Generator]:
    """Settings -> a generator with random weights, loaded from its checkpoint."""

    def make(architecture: str = "llama", **settings: Any) -> Generator:
        folder = tiny_base(architecture)
        wanted: dict[str, Any] = {
            "layers": (0, 2),
            "r1": 12,
            "r2": 10,
            "max_rank": 6,
            "alpha": 5.0,
            "window": 16,
            **settings,
        }
        base = load_base(folder, "cpu", torch.float32)
        config = GeneratorSettings(base_model=str(folder), **wanted).to_config(base, fingerprint_base(folder))
        torch.manual_seed(1)
        network = GeneratorNetwork(config)
        for module in network.generators:
            torch.nn.init.normal_(module.B, std=0.2)
            torch.nn.init.normal_(module.norm, mean=1.0, std=0.1)
        save_checkpoint(network, tmp_path / "checkpoint")
        return load_generator(tmp_path / "checkpoint")

    return make
