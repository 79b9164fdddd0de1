"""A state's stored form: S in float32, so that a context can go on later where it stopped."""

from __future__ import annotations

import json

from generator.adapter import HEADER_KEY, DamagedAdapter, checksum, read_header
from generator.config import GeneratorConfig
from generator.encode import State

FORMAT = "genadapter-state-1"


def state_to_bytes(state: State, generator_fingerprint: str) -> bytes:
    """Safetensors: "S" (M x r1 x r2, float32); what made it, how much was read and a checksum in the header."""
    from safetensors.torch import save

    s = state.s.float().cpu().contiguous()
    header = {
        "format": FORMAT,
        "generator": generator_fingerprint,
        "tokens": str(state.tokens),
        "chunks": str(state.chunks),
        "sha256": checksum(s),
    }
    return save({"S": s}, metadata={HEADER_KEY: json.dumps(header)})


def state_from_bytes(data: bytes, config: GeneratorConfig, generator_fingerprint: str) -> State:
    """Raises `DamagedAdapter`; ValueError for the state of another generator."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    header = read_header(data, FORMAT)
    try:
        s = load(data)["S"]
        tokens, chunks = int(header["tokens"]), int(header["chunks"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedAdapter("the state cannot be read") from error
    if checksum(s) != header.get("sha256"):
        raise DamagedAdapter("the state's checksum is wrong")
    if header["generator"] != generator_fingerprint or s.shape != (len(config.targets), config.r1, config.r2):
        raise ValueError("the state was made by another generator than the one that is served")
    return State(s, tokens, chunks)
