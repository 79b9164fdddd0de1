"""How the local engine is started."""

from __future__ import annotations

import os
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from generator import processor
from service import children
from service.settings import Settings
from service.vllm_plugin import platform, threads

CORES = "0,1"


@pytest.fixture(autouse=True)
def a_small_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With two cores and the CPU build, Intel's OpenMP beside it."""
    openmp = tmp_path / "libiomp5.so"
    openmp.touch()
    monkeypatch.setattr(children, "OPENMP", openmp)
    monkeypatch.setattr(children, "is_cpu_build", lambda: True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 0})
    monkeypatch.setattr(processor, "OWN_GROUPS", tmp_path / "cgroup")
    for name in (children.BOUND_CORES, threads.ENGINE_CORES, threads.ENGINE_THREADS, "OMP_NUM_THREADS", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)


def command(arguments: str = "", model: Path = Path("model")) -> list[str]:
    return children.engine_command(settings(arguments), model, 1, 8, ["model.layers.0.mlp.down_proj"])


def dtypes(words: list[str]) -> list[str]:
    return [value for name, value in pairwise(words) if name == "--dtype"]


def environment(arguments: str = "") -> dict[str, str]:
    return children.engine_environment(settings(arguments), "redis://x", Path("checkpoint"))


def settings(arguments: str) -> Settings:
    return Settings(_env_file=None, engine_args=arguments)


@pytest.mark.parametrize(("flags", "dtype"), [("avx2", ["float32"]), ("avx2 avx512_bf16", []), ("avx2 amx_bf16", [])])
def test_it_computes_in_float32_where_bfloat16_is_slow(
    flags: str, dtype: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processor, "CPU_FLAGS", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(f"flags : sse2 {flags}\n")
    assert dtypes(command()) == dtype


@pytest.mark.parametrize(("share", "dtype"), [(0.1, ["float32"]), (0.25, [])])
def test_a_model_that_would_fill_the_memory_stays_as_it_is(
    share: float, dtype: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(children, "cpu_has_bfloat16", lambda: False)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(int(share * children._memory_bytes()))
    assert dtypes(command(model=tmp_path)) == dtype


def test_the_operators_arguments_come_last() -> None:
    assert command("--dtype bfloat16")[-2:] == ["--dtype", "bfloat16"]


def test_one_process_schedules_and_computes_with_its_threads_bound() -> None:
    assert command()[-2:] == children.ONE_PROCESS
    assert environment()[threads.ENGINE_CORES] == CORES
    assert environment()[threads.ENGINE_THREADS] == "2"
    assert children.BOUND_CORES not in environment()


@pytest.mark.parametrize("asked", ["--tensor_parallel_size=2", "-tp 2", "--distributed-executor-backend mp"])
def test_processes_that_are_asked_for_are_vllms_own(asked: str) -> None:
    assert children.ONE_PROCESS[-1] not in command(asked)
    assert environment(asked)[children.BOUND_CORES] == CORES
    assert threads.ENGINE_THREADS not in environment(asked)


@pytest.mark.parametrize(
    "what", ["many cores", "no OpenMP of Intel's", "another library", "cores chosen by the operator"]
)
def test_where_threads_cannot_be_bound_they_are_vllms_own(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    match what:
        case "many cores":
            monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
        case "no OpenMP of Intel's":
            monkeypatch.setattr(children, "OPENMP", tmp_path / "none")
        case "another library":
            monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
        case _:
            monkeypatch.setenv(children.BOUND_CORES, "0-1")
    assert children.ONE_PROCESS[-1] not in command()
    assert threads.ENGINE_THREADS not in environment()


def test_a_container_has_a_thread_for_each_core_that_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(children, "usable_cores", lambda: 3)
    assert command()[-2:] == children.ONE_PROCESS
    assert environment()[threads.ENGINE_THREADS] == "3"
    assert not environment()[threads.ENGINE_CORES]
    asked = environment("-tp 2")
    assert (asked[children.BOUND_CORES], asked["OMP_NUM_THREADS"]) == ("nobind", "3")


def test_threads_are_bound_only_where_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    threads.bind()
    assert not os.environ
    os.environ[threads.ENGINE_THREADS] = "2"
    threads.bind()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "KMP_AFFINITY" not in os.environ
    os.environ[threads.ENGINE_CORES] = CORES
    threads.bind()
    assert "proclist=[0,1]" in os.environ["KMP_AFFINITY"]


@pytest.mark.parametrize(("endpoint", "method"), [(None, "fork"), ("http://collector/v1/traces", "spawn")])
def test_nothing_is_forked_beside_a_thread_that_sends_spans(
    endpoint: str | None, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "")
    vllms_own = partial(os.environ.__setitem__, "VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    config = SimpleNamespace(observability_config=SimpleNamespace(otlp_traces_endpoint=endpoint))
    platform._by_forking(lambda _: vllms_own())(None, config)
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == method
