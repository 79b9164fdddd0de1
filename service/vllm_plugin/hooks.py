"""Changes to vLLM's classes, made when (and only if) a process imports the module that defines them."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# vLLM configures the handlers of "vllm" only; a child of it shows up in the server's log.
logger = logging.getLogger("vllm.genadapter")

# Releases whose private interfaces were read and run with this plugin.
KNOWN_RELEASES = ("0.32",)

_registered = False


def first_call() -> bool:
    """True once in a process."""
    global _registered
    first, _registered = not _registered, True
    return first


def known_release(part: str) -> bool:
    """Whether the private interfaces that `part` uses are known; says so in the log when they are not."""
    import vllm

    if vllm.__version__.startswith(tuple(f"{release}." for release in KNOWN_RELEASES)):
        return True
    logger.warning(
        "genadapter: vLLM %s is not a known release %s: %s is left as it is", vllm.__version__, KNOWN_RELEASES, part
    )
    return False


def when_imported(module: str, home: str, function: str) -> None:
    """Call `home.function(module)` once `module` is imported; at once if it is already.

    A failure is logged and leaves vLLM as it is: a plugin must not keep the server from starting.
    """

    def change(loaded: ModuleType) -> None:
        try:
            getattr(importlib.import_module(home), function)(loaded)
        except Exception:
            logger.exception("genadapter: %s.%s failed", home, function)

    loaded = sys.modules.get(module)
    if loaded is not None and not getattr(getattr(loaded, "__spec__", None), "_initializing", False):
        change(loaded)
    else:
        sys.meta_path.insert(0, _Watcher(module, change))


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds one module the way the other finders do, and calls `change` when it has been executed."""

    def __init__(self, module: str, change: Callable[[ModuleType], None]) -> None:
        self._module = module
        self._change = change

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _AfterLoad(spec.loader, self._change)
        return spec


class _AfterLoad(importlib.abc.Loader):
    def __init__(self, loader: Any, change: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._change = change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._change(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
