"""What a generator is: which linear layers it adapts and how. One JSON file beside the weights says it all."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Norm = Literal["svd", "frobenius", "spectral"]
Strategy = Literal["concat", "parallel", "sequential"]
ValueSource = Literal["state", "embedding"]

FORMAT = "genadapter-generator-1"


class ConfigError(ValueError):
    """A configuration that makes no sense; the message names the field."""


@dataclass(frozen=True)
class TargetModule:
    """One adapted linear layer (weight d_out x d_in) inside decoder layer `layer`."""

    name: str  # as transformers names it: "model.layers.22.self_attn.o_proj"
    layer: int
    d_in: int
    d_out: int


@dataclass(frozen=True)
class GeneratorConfig:
    """The network of arXiv 2411.05877, section 3, with this project's options; the defaults are the paper's setting."""

    base_model: str
    hidden_size: int
    targets: tuple[TargetModule, ...]
    r1: int  # keys: columns of A1's and A2's output
    r2: int  # values: columns of A3's output
    max_rank: int  # k: singular directions of S that are kept
    alpha: float  # the adapter's scale is alpha / r2
    base_fingerprint: str = ""
    norm: Norm = "svd"
    norm_eps: float = 1e-6
    key_shift: int = 0  # 1: S = sum k_{t-1} v_t^T, "after a state like that came this token"
    value_source: ValueSource = "state"  # what A3 reads: the state entering the layer, or the token's embedding
    strategy: Strategy = "concat"
    window: int = 1024  # tokens in a chunk, at most
    prefix_ids: tuple[int, ...] = ()  # put before every chunk (an attention sink), read but not remembered

    def __post_init__(self) -> None:
        for name, allowed in (("norm", Norm), ("strategy", Strategy), ("value_source", ValueSource)):
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(f"{name} is {getattr(self, name)!r}, not one of {', '.join(get_args(allowed))}")
        for name in ("hidden_size", "r1", "r2", "max_rank", "window"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, not a positive integer")
        if self.key_shift not in (0, 1):
            raise ConfigError(f"key_shift is {self.key_shift!r}, not 0 or 1")
        if not self.targets:
            raise ConfigError("targets is empty: no linear layer is adapted")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ConfigError(f"alpha is {self.alpha!r}, not a positive number")

    @property
    def rank(self) -> int:
        """Rank of the adapters: cut to k by `svd`; the other norms keep every direction of S."""
        full = min(self.r1, self.r2)
        return min(self.max_rank, full) if self.norm == "svd" else full

    @property
    def scaling(self) -> float:
        """alpha / r2: what multiplies B (S^)^T A1."""
        return self.alpha / self.r2

    @property
    def last_layer(self) -> int:
        """The last decoder layer whose input is read; encoding stops there."""
        return max(target.layer for target in self.targets)

    @property
    def target_suffixes(self) -> list[str]:
        """Names of the adapted linears without their layer ("o_proj"), as vLLM's --lora-target-modules wants them."""
        return sorted({target.name.rsplit(".", 1)[-1] for target in self.targets})

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> GeneratorConfig:
        """Raises `ConfigError` on anything that is not a configuration of this format."""
        try:
            data: dict[str, Any] = json.loads(text)
            if data.pop("format", None) != FORMAT:
                raise ConfigError(f"format is not {FORMAT}")
            unknown = set(data) - {field.name for field in fields(cls)}
            if unknown:
                raise ConfigError(f"unknown fields: {', '.join(sorted(unknown))}")
            data["targets"] = tuple(TargetModule(**target) for target in data["targets"])
            data["prefix_ids"] = tuple(data.get("prefix_ids", ()))
            return cls(**data)
        except ConfigError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"not a generator configuration: {error}") from error
