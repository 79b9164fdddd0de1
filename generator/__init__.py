"""Documents and conversations into LoRA weights with one forward pass (arXiv 2411.05877). Needs torch; no HTTP, no Redis, no vLLM.

from generator import load_generator
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from generator.generator import Generator, load_generator

__all__ = ["Generator", "load_generator"]


def __getattr__(name: str) -> Any:
    # Lazy: `import generator.adapter` is used where torch must not be loaded.
    if name in __all__:
        from generator import generator

        return getattr(generator, name)
    raise AttributeError(name)
