"""What Python's garbage collector is told, here and in every process of the engine."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

from service import heap


def test_what_is_loaded_is_not_collected_again() -> None:
    before, threshold = gc.get_freeze_count(), gc.get_threshold()
    try:
        heap.expect_much()
        assert gc.get_threshold() > threshold
        heap.settle()
        assert gc.get_freeze_count() > before + 10_000
        assert gc.get_threshold() == threshold
    finally:
        gc.unfreeze()


def test_all_processes_of_the_engine_load_with_few_collections(tmp_path: Path) -> None:
    """vLLM starts the others by multiprocessing, which gives each the main module's name to import."""
    package = tmp_path / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, *package.parents[:2]):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text("""
import gc, multiprocessing
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(gc.get_threshold()[0], pool.apply(gc.get_threshold)[0])
""")
    command = [sys.executable, "-m", "service.vllm_plugin.server"]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(tmp_path)}
    )
    assert min(int(threshold) for threshold in said.stdout.split()) > 10 * gc.get_threshold()[0], said.stdout
