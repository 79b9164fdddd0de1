"""What transformers answers with an adapter merged into the base model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from generator.adapter import expand
from generator.checkpoint import Expander


class Reference:
    """The base model in float32, whole or from the first adapted layer on."""

    def __init__(self, folder: Path, expander: Expander) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._expander = expander

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    @contextmanager
    def adapter(self, payload: bytes | None) -> Iterator[None]:
        """W + scale * B A in place of every adapted W."""
        lora = expand(payload, self._expander) if payload is not None else None
        saved: dict[str, Tensor] = {}
        for name, (a, b) in lora.tensors.items() if lora is not None else ():
            weight = self.model.get_submodule(name).weight
            saved[name] = weight.data
            weight.data = weight.data + (b @ a) * (lora.alpha / lora.rank)
        try:
            yield
        finally:
            for name, weight in saved.items():
                self.model.get_submodule(name).weight.data = weight

    @torch.inference_mode()
    def logprobs(self, ids: list[int], payload: bytes | None = None) -> Tensor:
        """T x vocabulary, float32: of the token after each position."""
        with self.adapter(payload):
            return self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
