"""What the images run as process 1."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

START = Path(__file__).parents[2] / "docker/start.py"


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "VLLM_API_KEY",
        "GENADAPTER_REDIS_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("image_start", START)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Its own copy: what it sets must not reach other tests.
    monkeypatch.setattr(module.os, "environ", dict(module.os.environ))
    return module


@pytest.fixture
def started(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    command: list[str] = []
    monkeypatch.setattr(start.os, "execv", lambda program, arguments: command.extend(arguments))
    monkeypatch.setattr(start.shutil, "which", lambda name: name)
    return command


def test_secrets_come_from_files_and_their_names_go(start: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://:word@store:6379/0\n")
    start.os.environ["GENADAPTER_REDIS_URL_FILE"] = str(tmp_path / "url")
    start.read_secrets()
    assert start.os.environ["GENADAPTER_REDIS_URL"] == "redis://:word@store:6379/0"
    assert "GENADAPTER_REDIS_URL_FILE" not in start.os.environ


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}, "http://collector:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://other/spans"}, "http://other/spans"),
    ],
)
def test_where_spans_go(start: ModuleType, variables: dict[str, str], endpoint: str | None) -> None:
    start.os.environ.update(variables)
    assert start.traces_endpoint() == endpoint


def test_service_is_traced_only_when_asked(start: ModuleType, started: list[str]) -> None:
    start.main(["service", "serve"])
    assert started == ["genadapter", "serve"]
    started.clear()
    start.os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://collector:4318"
    start.main(["service", "serve"])
    assert started == ["python", str(START.with_name("traced.py")), "serve"]
    assert start.os.environ["OTEL_METRICS_EXPORTER"] == "none"


def test_engine_is_what_serve_starts_but_open_to_its_network(
    start: ModuleType, started: list[str], tmp_path: Path
) -> None:
    model = tmp_path / "SmolLM2-135M-Instruct"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({}))
    settings: dict[str, Any] = {
        "GENADAPTER_BASE_MODEL": str(model),
        "GENADAPTER_REDIS_URL": "redis://store:6379/0",
        "GENADAPTER_SHUTDOWN_GRACE": "90s",
        "GENADAPTER_ENGINE_ARGS": "--gpu-memory-utilization 0.7",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
    }
    start.os.environ.update(settings)
    start.main(["engine"])

    def last(option: str) -> str:
        return started[len(started) - started[::-1].index(option)]

    assert started[1:3] == ["-m", "service.vllm_plugin.server"]
    assert last("--host") == "0.0.0.0"
    assert last("--port") == str(start.ENGINE_PORT)
    assert last("--served-model-name") == "SmolLM2-135M-Instruct"
    assert last("--shutdown-timeout") == "90"
    assert last("--otlp-traces-endpoint") == "http://collector:4318/v1/traces"
    assert started[-2:] == ["--gpu-memory-utilization", "0.7"]
    assert start.os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert start.os.environ["GENADAPTER_GENERATOR"]


def test_engine_without_a_store_says_so(start: ModuleType, started: list[str]) -> None:
    with pytest.raises(SystemExit, match="GENADAPTER_REDIS_URL"):
        start.main(["engine"])
    assert started == []
