"""What a method costs, by formula. FLOPs: a multiplication and an addition count as two.

    reading T tokens after C others     2 P T + 4 L a (T C + T (T + 1) / 2)      P: weights of the L decoder layers, a: width
                                                                                 of all attention heads together
    each token that is scored or made   2 d V                                    d: width of the model, V: vocabulary
    a LoRA, on every token              2 T sum k (d_in + d_out)
    making an adapter                   reading, as far as the last adapted layer; for each adapted module
                                        2 T d (r1 + r2) + 2 T r1 r2 for S and 2 r1^2 r2 + 9 r1^3 + 2 r1 r2 k for its factors
    a step of fine-tuning               three times reading

Numbers stored: a document's KV cache (2 L times the width of the key-value heads, a token), an adapter's factors U_k and V_k,
a LoRA's weights. A query's memory is the KV cache of its prompt and answer, and the LoRA that is attached. Each number takes
two bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from generator.config import GeneratorConfig

BYTES_PER_NUMBER = 2


@dataclass(frozen=True)
class Shape:
    """Of a decoder with gated feed-forward layers (Llama, Mistral, Qwen, Gemma)."""

    layers: int
    width: int
    attention: int  # all heads together
    kv: int  # all key or value heads together
    inner: int  # of the feed-forward layer
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """From a Hugging Face configuration."""
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            heads * head,
            (getattr(config, "num_key_value_heads", None) or heads) * head,
            config.intermediate_size,
            config.vocab_size,
        )

    @property
    def layer_weights(self) -> int:
        return self.width * (2 * self.attention + 2 * self.kv + 3 * self.inner)

    def reading(self, tokens: int, before: int = 0, layers: int | None = None) -> float:
        depth = self.layers if layers is None else layers
        attended = tokens * before + tokens * (tokens + 1) / 2
        return depth * (2 * self.layer_weights * tokens + 4 * self.attention * attended)

    def naming(self, tokens: int) -> float:
        """Logits of so many positions."""
        return 2.0 * self.width * self.vocabulary * tokens

    def cache_numbers(self, tokens: int) -> int:
        return 2 * self.layers * self.kv * tokens


def attached_numbers(config: GeneratorConfig) -> int:
    """Of a generated adapter as the engine holds it: lora_A and lora_B of every target."""
    return config.rank * sum(target.d_in + target.d_out for target in config.targets)


def generating(shape: Shape, config: GeneratorConfig, tokens: int) -> float:
    """FLOPs of making an adapter; chunks of the generator's window, unless it reads everything at once."""
    window = tokens if config.strategy == "concat" else config.window
    whole, rest = divmod(tokens, max(1, window))
    depth = config.last_layer
    reading = whole * shape.reading(window, layers=depth) + shape.reading(rest, layers=depth)
    r1, r2 = config.r1, config.r2
    state = 2.0 * tokens * (shape.width * (r1 + r2) + r1 * r2)
    factors = 2.0 * r1 * r1 * r2 + 9.0 * r1**3 + 2.0 * r1 * r2 * config.rank
    return reading + len(config.targets) * (state + factors)


def adapter_numbers(config: GeneratorConfig) -> int:
    return len(config.targets) * config.rank * (config.r1 + config.r2)
