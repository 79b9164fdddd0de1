"""What "auto" means for the precision of a loaded generator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from generator import processor
from generator.generator import resolve_dtype


@pytest.mark.parametrize(
    ("flags", "name", "device", "taken"),
    [
        ("sse2 avx512f avx512_bf16", "auto", "cpu", torch.bfloat16),
        ("sse2 amx_bf16", "auto", "cpu", torch.bfloat16),
        ("sse2 avx512f", "auto", "cpu", torch.float32),
        ("sse2 avx512f avx512_bf16", "float32", "cpu", torch.float32),
        ("sse2", "bfloat16", "cpu", torch.bfloat16),
        ("sse2", "auto", "cuda:1", torch.bfloat16),
        (None, "auto", "cpu", torch.float32),
    ],
)
def test_documents_are_read_in_the_precision_that_is_quick_there(
    flags: str | None, name: str, device: str, taken: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processor, "CPU_FLAGS", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    assert resolve_dtype(name, device) == taken
