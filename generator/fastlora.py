"""Checkpoints of the reference implementation (`peft_type` FASTLORA): read and turned into ours."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from generator.base_model import cache_dir, fingerprint_base, locked, resolve_base_model
from generator.checkpoint import CheckpointError
from generator.config import ConfigError, GeneratorConfig, Norm, Strategy, TargetModule

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
# `…layers.3.base_layer.self_attn.o_proj.fastlora_A1.weight`; the older layout lacks `base_layer`.
_KEY = re.compile(
    r"^(?:base_model\.model\.)?(?P<layer_path>.*?layers\.(?P<layer>\d+))\.(?:base_layer\.)?(?P<module>.+?)\."
    r"fastlora_(?P<part>A1|A2|A3|B|hidden_state_norm)(?:\.default)?\.weight$"
)
_PARTS = {"A1": "A1", "A2": "A2", "A3": "A3", "B": "B", "hidden_state_norm": "norm"}
# The fields that change what is computed, and the one value of each that the network of `model.py` computes.
_REPRESENTED: dict[str, Any] = {
    "fastlora_arch": "aassbb",
    "fastlora_merge": "pre-norm-sum",
    "fastlora_gist_len": 0,
    "fastlora_param": None,
    "lora_r": 0,
}
_NORMS: tuple[Norm, ...] = ("svd", "frobenius", "spectral")


def is_fastlora(folder: Path) -> bool:
    """Whether a folder holds a checkpoint as the reference saves it."""
    try:
        data = json.loads((folder / CONFIG_FILE).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("peft_type") == "FASTLORA"


def read_fastlora(
    folder: Path, base_config: Any, strategy: Strategy = "concat"
) -> tuple[GeneratorConfig, dict[str, Any]]:
    """Configuration, and weights as "<target>.<part>" tensors.

    base_config: the base model's transformers configuration. Raises `CheckpointError` naming the field that has no
    counterpart here.
    """
    fields = json.loads((folder / CONFIG_FILE).read_text())
    for name, value in _REPRESENTED.items():
        if name in fields and fields[name] != value:
            raise CheckpointError(f"{name} is {fields[name]!r}; only {value!r} is supported")
    norm = fields.get("fastlora_norm")
    if norm not in _NORMS:
        raise CheckpointError(f"fastlora_norm is {norm!r}, not one of {', '.join(_NORMS)}")
    for name in ("fastlora_r", "fastlora_inter_size", "fastlora_max_rank", "fastlora_alpha", "fastlora_window"):
        if not isinstance(fields.get(name), int | float) or fields[name] <= 0:
            raise CheckpointError(f"{name} is {fields.get(name)!r}, not a positive number")
    weights, targets = _read_weights(folder, fields)
    config = _config(fields, targets, weights, base_config, strategy)
    _check_layers(config, fields, base_config)
    return config, weights


def _read_weights(folder: Path, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """Tensors by "<target>.<part>", and the layer of each target, in layer order."""
    from safetensors.torch import load_file

    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(f"{WEIGHTS_FILE} is missing")
    weights: dict[str, Any] = {}
    targets: dict[str, int] = {}
    for key, tensor in load_file(path).items():
        match = _KEY.match(key)
        if match is None:
            raise CheckpointError(f"{WEIGHTS_FILE}: {key} is not a weight of this method")
        target = f"{match['layer_path']}.{match['module']}"
        targets[target] = int(match["layer"])
        weights[f"{target}.{_PARTS[match['part']]}"] = tensor
    for target in targets:
        for part in _PARTS.values():
            if f"{target}.{part}" not in weights:
                raise CheckpointError(f"{WEIGHTS_FILE}: {target} has no {part}")
    return weights, dict(sorted(targets.items(), key=lambda item: (item[1], item[0])))


def _config(
    fields: dict[str, Any], targets: dict[str, int], weights: dict[str, Any], base_config: Any, strategy: Strategy
) -> GeneratorConfig:
    text_config = base_config.get_text_config()
    modules = tuple(
        TargetModule(name, layer, weights[f"{name}.A1"].shape[1], weights[f"{name}.B"].shape[0])
        for name, layer in targets.items()
    )
    try:
        config = GeneratorConfig(
            base_model=fields.get("base_model_name_or_path") or "",
            hidden_size=text_config.hidden_size,
            targets=modules,
            r1=int(fields["fastlora_inter_size"]),
            r2=int(fields["fastlora_r"]),
            max_rank=int(fields["fastlora_max_rank"]),
            alpha=float(fields["fastlora_alpha"]),
            norm=fields["fastlora_norm"],
            strategy=strategy,
            window=int(fields["fastlora_window"]),
        )
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    d = config.hidden_size
    for target in modules:
        expected = {
            "A1": (config.r1, target.d_in),
            "A2": (config.r1, d),
            "A3": (config.r2, d),
            "B": (target.d_out, config.r2),
            "norm": (d,),
        }
        for part, shape in expected.items():
            if tuple(weights[f"{target.name}.{part}"].shape) != shape:
                found = tuple(weights[f"{target.name}.{part}"].shape)
                raise CheckpointError(f"{target.name}.{part} is {found}, the configuration says {shape}")
    return config


def _check_layers(config: GeneratorConfig, fields: dict[str, Any], base_config: Any) -> None:
    count = base_config.get_text_config().num_hidden_layers
    suffixes = fields.get("target_modules") or []
    suffixes = [suffixes] if isinstance(suffixes, str) else suffixes
    for suffix in suffixes:
        have = {t.layer for t in config.targets if t.name.rsplit(".", 1)[-1] == suffix.rsplit(".", 1)[-1]}
        missing = sorted(set(range(count)) - have)
        if missing or have - set(range(count)):
            raise CheckpointError(
                f"target_modules: {suffix} has weights for layers {sorted(have)}, the base model has {count} layers"
            )


def import_fastlora(
    folder: Path, out: Path, base_model: str | None = None, strategy: Strategy = "concat"
) -> GeneratorConfig:
    """Write a checkpoint of ours from one of the reference. Raises `CheckpointError`, `BaseModelNotFound`."""
    from dataclasses import replace

    from transformers import AutoConfig

    from generator.checkpoint import save_checkpoint
    from generator.model import GeneratorNetwork

    if not is_fastlora(folder):
        raise CheckpointError(f"peft_type: {folder / CONFIG_FILE} does not say FASTLORA")
    named = json.loads((folder / CONFIG_FILE).read_text()).get("base_model_name_or_path")
    named = base_model or _beside(folder, named)
    base = resolve_base_model(named)
    config, weights = read_fastlora(folder, AutoConfig.from_pretrained(base), strategy)
    config = replace(config, base_model=named, base_fingerprint=fingerprint_base(base))
    network = GeneratorNetwork(config)
    for target, module in zip(config.targets, network.generators, strict=True):
        for part in _PARTS.values():
            getattr(module, part).data.copy_(weights[f"{target.name}.{part}"])
    save_checkpoint(network, out)
    return config


def imported(folder: Path, base_model: str | None = None) -> Path:
    """The imported form of a reference checkpoint, in the cache; made once, also when two processes ask at once."""
    base = base_model or _beside(folder, json.loads((folder / CONFIG_FILE).read_text()).get("base_model_name_or_path"))
    digest = hashlib.sha256(base.encode())
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    target = cache_dir() / "imported" / digest.hexdigest()[:32]
    with locked(target.with_suffix(".lock")):
        if not target.is_dir():
            scratch = Path(tempfile.mkdtemp(prefix=".importing-", dir=target.parent))
            try:
                import_fastlora(folder, scratch, base)
                scratch.rename(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return target


def _beside(folder: Path, named: str | None) -> str:
    """The base model's name as the checkpoint gives it; a relative folder may lie beside the checkpoint."""
    if not named:
        raise CheckpointError("base_model_name_or_path is missing; say which base model it is for")
    beside = folder.parent / named
    return str(beside) if (beside / "config.json").is_file() else named
