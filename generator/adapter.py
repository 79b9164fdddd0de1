"""Adapters: the compact form that is stored, and the LoRA that it stands for.

An adapter is U_k and V_k of every target; with the generator's A1 and B it expands to lora_A = U_k^T A1 (k x d_in) and
lora_B = B V_k (d_out x k), to be scaled by alpha / r2. `expand` needs the stored bytes and an `Expander` alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from generator.checkpoint import Expander, Mapper
    from generator.encode import State

FORMAT = "genadapter-adapter-1"
HEADER_KEY = "genadapter"
_HEADER_LENGTH_BYTES = 8  # safetensors: a little-endian u64, then so many bytes of JSON
_MAX_HEADER_BYTES = 1 << 20


class DamagedAdapter(ValueError):
    """Stored bytes that are no adapter, or not the one that was written."""


@dataclass
class Lora:
    """An expanded adapter, ready for any engine: alpha / rank is the generator's scale."""

    tensors: Mapping[str, tuple[Tensor, Tensor]]  # module: lora_A (k x d_in), lora_B (d_out x k), float32
    rank: int
    alpha: float

    def to(self, dtype: torch.dtype) -> Lora:
        """The same, rounded to `dtype`."""
        return Lora({name: (a.to(dtype), b.to(dtype)) for name, (a, b) in self.tensors.items()}, self.rank, self.alpha)

    def save_peft(self, folder: Path, base_model_name: str) -> None:
        """Write a folder that `peft.PeftModel.from_pretrained` loads."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, (a, b) in self.tensors.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = a.contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = b.contiguous()
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model_name,
            "r": self.rank,
            "lora_alpha": int(self.alpha) if self.alpha == int(self.alpha) else self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "use_rslora": False,
            "target_modules": sorted(self.tensors),
            "inference_mode": True,
        }
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


@dataclass
class Adapter:
    """What one context became."""

    u: Tensor  # M x r1 x k, float32
    v: Tensor  # M x r2 x k, float32
    expander: Expander
    tokens: int
    chunks: int
    state: State | None = None

    @property
    def rank(self) -> int:
        return self.u.shape[-1]

    @property
    def scaling(self) -> float:
        """alpha / r2."""
        return self.expander.config.scaling

    def lora(self) -> dict[str, tuple[Tensor, Tensor]]:
        """{module: (lora_A (k x d_in), lora_B (d_out x k))}, float32, scaling not applied."""
        return self.expander.expand(self.u, self.v)

    def save_peft(self, folder: str | Path) -> None:
        """Write a PEFT LoRA (`adapter_config.json`, `adapter_model.safetensors`) into `folder`."""
        Lora(self.lora(), self.rank, self.scaling * self.rank).save_peft(Path(folder), self.expander.config.base_model)

    def to_bytes(self) -> bytes:
        """Compact safetensors: "U" (M x r1 x k) and "V" (M x r2 x k) in bf16, what made them and a checksum in the header."""
        import torch
        from safetensors.torch import save

        u, v = (factor.to("cpu", torch.bfloat16).contiguous() for factor in (self.u, self.v))
        header = {
            "format": FORMAT,
            "generator": self.expander.fingerprint,
            "base_model": self.expander.base_fingerprint,
            "base_model_name": self.expander.config.base_model,
            "rank": str(self.rank),
            "scaling": repr(self.scaling),
            "tokens": str(self.tokens),
            "chunks": str(self.chunks),
            "sha256": checksum(u, v),
        }
        # One entry: safetensors writes several in random order, and the same document shall give the same bytes.
        return save({"U": u, "V": v}, metadata={HEADER_KEY: json.dumps(header)})


def checksum(*tensors: Tensor) -> str:
    """SHA-256 (hex) over shapes and bytes."""
    import torch

    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(json.dumps([list(tensor.shape)]).encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_header(data: bytes, kind: str = FORMAT) -> dict[str, str]:
    """What an adapter's (or a state's) bytes say of themselves, read without torch. Raises `DamagedAdapter`."""
    try:
        length = int.from_bytes(data[:_HEADER_LENGTH_BYTES], "little")
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise DamagedAdapter("the header's length makes no sense")
        header = json.loads(data[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + length])
        metadata = json.loads(header["__metadata__"][HEADER_KEY])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedAdapter("the bytes are not an adapter") from error
    if not isinstance(metadata, dict) or metadata.get("format") != kind:
        raise DamagedAdapter("the bytes are not an adapter of this format")
    return metadata


def read_factors(data: bytes) -> tuple[Tensor, Tensor]:
    """U (M x r1 x k) and V (M x r2 x k) as stored, in float32. Raises `DamagedAdapter`, a wrong checksum included."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    header = read_header(data)
    try:
        tensors = load(data)
        u, v = tensors["U"], tensors["V"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedAdapter("the adapter's tensors cannot be read") from error
    if checksum(u, v) != header.get("sha256"):
        raise DamagedAdapter("the adapter's checksum is wrong")
    return u.float(), v.float()


def expand(data: bytes, expander: Expander, *, trim: bool = False, each: Mapper = map) -> Lora:
    """The LoRA of stored bytes; with `trim` without the directions that are zero in every module, since a short document has fewer
    than the rank; `each` as in `Expander.expand`. Raises `DamagedAdapter`; ValueError for an adapter of another generator."""
    header = read_header(data)
    if header.get("generator") != expander.fingerprint:
        raise ValueError("the adapter was made by another generator than the one that is served")
    u, v = read_factors(data)
    if trim:
        used = max([1, *(u.any(1).any(0).nonzero()[-1:, 0] + 1).tolist()])
        u, v = u[..., :used], v[..., :used]
    return Lora(expander.expand(u, v, each), u.shape[-1], expander.config.scaling * u.shape[-1])
