"""Generator checkpoints: a folder with `generator.json` (configuration), `generator.safetensors` (weights), and a model card."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generator.config import ConfigError, GeneratorConfig

if TYPE_CHECKING:
    from torch import Tensor

    from generator.model import GeneratorNetwork

CONFIG_FILE = "generator.json"
WEIGHTS_FILE = "generator.safetensors"
SHIPPED = Path(__file__).parent / "checkpoints"
DEFAULT_NAME = "smollm2-135m-instruct"
_PARTS = ("norm", "A1", "A2", "A3", "B")

# `map`, or one that maps side by side.
Mapper = Callable[..., Iterable[Any]]


class CheckpointError(ValueError):
    """A folder that holds no usable generator; the message says what is missing."""


@dataclass
class Expander:
    """What expansion needs of a generator, and no more: A1 and B of every target."""

    config: GeneratorConfig
    fingerprint: str
    base_fingerprint: str
    a1: list[Tensor]  # r1 x d_in each
    b: list[Tensor]  # d_out x r2 each

    def expand(self, u: Tensor, v: Tensor, each: Mapper = map) -> dict[str, tuple[Tensor, Tensor]]:
        """lora_A = U^T A1 (k x d_in), lora_B = B V (d_out x k) of every target, float32. u: M x r1 x k; v: M x r2 x k.

        each: maps over the targets, a pool's `map` for instance.
        """
        config = self.config
        if u.shape[:2] != (len(config.targets), config.r1) or v.shape[:2] != (len(config.targets), config.r2):
            raise ValueError("the factors' shapes are not this generator's")
        from generator.factors import expand

        def expand_one(i: int) -> dict[str, tuple[Tensor, Tensor]]:
            one = slice(i, i + 1)
            return expand(config.targets[one], u[one], v[one], [self.a1[i].float()], [self.b[i].float()])

        parts = each(expand_one, range(len(config.targets)))
        return {name: pair for part in parts for name, pair in part.items()}


def default_checkpoint() -> Path:
    """The generator that ships for the packaged base model."""
    return SHIPPED / DEFAULT_NAME


def resolve_checkpoint(name: str | os.PathLike[str], base_model: str | os.PathLike[str] | None = None) -> Path:
    """A checkpoint's folder: a folder of ours, one of the reference (imported into the cache once; `base_model` where it
    does not name its own), or the name of a shipped one. Raises `CheckpointError`, `BaseModelNotFound`."""
    from generator import fastlora

    if fastlora.is_fastlora(Path(name).expanduser()):
        return fastlora.imported(Path(name).expanduser(), None if base_model is None else os.fspath(base_model))
    for folder in (Path(name).expanduser(), SHIPPED / Path(name).name):
        if (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file():
            return folder
    shipped = ", ".join(sorted(path.name for path in SHIPPED.glob("*") if path.is_dir())) or "none"
    raise CheckpointError(
        f"{name} holds no {CONFIG_FILE} and {WEIGHTS_FILE}, and no shipped generator has this name ({shipped})"
    )


def read_config(folder: str | os.PathLike[str]) -> GeneratorConfig:
    """A checkpoint's configuration. Raises `CheckpointError`."""
    path = Path(folder) / CONFIG_FILE
    try:
        return GeneratorConfig.from_json(path.read_text())
    except (OSError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def fingerprint_generator(folder: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) over configuration and weights."""
    digest = hashlib.sha256(read_config(folder).to_json().encode())
    with (Path(folder) / WEIGHTS_FILE).open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def save_checkpoint(network: GeneratorNetwork, folder: str | os.PathLike[str], half: bool = False) -> None:
    """Write configuration and weights; `half` stores the weights as float16."""
    import torch
    from safetensors.torch import save_file

    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for target, module in zip(network.config.targets, network.generators, strict=True):
        for part in _PARTS:
            tensor = getattr(module, part).detach().to("cpu", torch.float16 if half else torch.float32)
            tensors[f"{target.name}.{part}"] = tensor.contiguous().clone()
    save_file(tensors, root / WEIGHTS_FILE, metadata={"format": "pt"})
    (root / CONFIG_FILE).write_text(network.config.to_json())


def _read_weights(folder: Path, config: GeneratorConfig, parts: tuple[str, ...]) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS_FILE, "pt") as file:
            return {f"{t.name}.{part}": file.get_tensor(f"{t.name}.{part}") for t in config.targets for part in parts}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE}: {error}") from error


def load_network(folder: str | os.PathLike[str]) -> GeneratorNetwork:
    """The network of a checkpoint, float32, on the CPU. Raises `CheckpointError`."""
    import torch

    from generator.model import GeneratorNetwork

    config = read_config(folder)
    weights = _read_weights(Path(folder), config, _PARTS)
    with torch.device("meta"):
        network = GeneratorNetwork(config)
    network.to_empty(device="cpu")
    for target, module in zip(config.targets, network.generators, strict=True):
        for part in _PARTS:
            parameter, tensor = getattr(module, part), weights[f"{target.name}.{part}"]
            if parameter.shape != tensor.shape:
                raise CheckpointError(
                    f"{target.name}.{part} is {tuple(tensor.shape)}, the configuration says {tuple(parameter.shape)}"
                )
            parameter.data.copy_(tensor)
            parameter.requires_grad_(False)
    return network


def load_expander(folder: str | os.PathLike[str]) -> Expander:
    """A checkpoint's A1 and B, for turning stored adapters into LoRAs. No base model is loaded."""
    root = resolve_checkpoint(folder)
    config = read_config(root)
    weights = _read_weights(root, config, ("A1", "B"))
    return Expander(
        config=config,
        fingerprint=fingerprint_generator(root),
        base_fingerprint=config.base_fingerprint,
        a1=[weights[f"{target.name}.A1"] for target in config.targets],
        b=[weights[f"{target.name}.B"] for target in config.targets],
    )
