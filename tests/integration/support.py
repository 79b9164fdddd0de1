"""A generator with random weights and adapters from random factors: real formats, strong effects, no training needed."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import torch
from generator.adapter import Adapter
from generator.base_model import fingerprint_base
from generator.checkpoint import Expander, save_checkpoint
from generator.config import GeneratorConfig, TargetModule
from generator.model import GeneratorNetwork
from service.records import AdapterRecord, checksum

BASE_MODEL = "SmolLM2-135M-Instruct"
HIDDEN = 576
LAYERS = range(22, 30)
RANK = 128
TENANT = "t"


def make_checkpoint(folder: Path, base_folder: Path) -> Path:
    """The layout of the shipped generator with random A1 and B: o_proj of eight layers, rank 128."""
    torch.manual_seed(1)
    targets = tuple(TargetModule(f"model.layers.{i}.self_attn.o_proj", i, HIDDEN, HIDDEN) for i in LAYERS)
    config = GeneratorConfig(
        base_model=BASE_MODEL,
        hidden_size=HIDDEN,
        targets=targets,
        r1=512,
        r2=512,
        max_rank=RANK,
        alpha=64.0,
        base_fingerprint=fingerprint_base(base_folder),
    )
    network = GeneratorNetwork(config)
    for module in network.modules_by_target:
        torch.nn.init.normal_(module.B, std=0.5)
    save_checkpoint(network, folder)
    return folder


def random_adapter(expander: Expander, seed: int) -> Adapter:
    """Orthonormal random factors, as the generator's factorization gives."""
    random = torch.Generator().manual_seed(seed)
    config = expander.config
    shape = (len(config.targets), config.r1, config.rank)
    u = torch.randn(shape, generator=random) / config.r1**0.5
    v = torch.randn(shape, generator=random) / config.r2**0.5
    return Adapter(u=u, v=v, expander=expander, tokens=10, chunks=1)


def adapter_id(seed: int, session: str = "") -> str:
    return "ga-" + hashlib.sha256(f"{session}{seed}".encode()).hexdigest()[:32]


def record(name: str, payload: bytes, expander: Expander, ttl_s: float = 3600.0) -> AdapterRecord:
    now_s = time.time()
    return AdapterRecord(
        id=name,
        tenant=TENANT,
        base_model=BASE_MODEL,
        base_fingerprint=expander.base_fingerprint,
        generator_fingerprint=expander.fingerprint,
        strategy="concat",
        created_at=now_s,
        expires_at=now_s + ttl_s,
        tokens=10,
        chunks=1,
        rank=RANK,
        bytes=len(payload),
        sha256=checksum(payload),
    )
