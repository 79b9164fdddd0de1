"""Settings: sensible ones are read, others are refused in one line that names the variable."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.settings import SettingsError, load_settings, unknown_variables


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_environment_and_file_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("GENADAPTER_MAX_QUEUE=7\nGENADAPTER_DEFAULT_TTL=12h\nUNRELATED=1\n")
    monkeypatch.setenv("GENADAPTER_ROLES", "contextualize")
    monkeypatch.setenv("GENADAPTER_MAX_BODY_BYTES", "2MiB")
    monkeypatch.setenv("GENADAPTER_ENGINE_ARGS", "--max-num-seqs 4 --name 'a b'")
    monkeypatch.setenv("GENADAPTER_PORT", "")
    settings = load_settings()
    assert settings.max_queue == 7
    assert settings.default_ttl == timedelta(hours=12)
    assert settings.roles == {"contextualize"}
    assert settings.max_body_bytes == 2 * 1024**2
    assert settings.engine_arguments == ["--max-num-seqs", "4", "--name", "a b"]
    assert settings.port == 8000
    assert settings.model_name == "SmolLM2-135M-Instruct"
    assert load_settings(base_model="/models/my-model/").model_name == "my-model"


@pytest.mark.parametrize("text", ["90", "90s", "1.5m", "PT1M30S", "90000ms"])
def test_durations(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENADAPTER_PARSE_TIMEOUT", text)
    assert load_settings().parse_timeout == timedelta(seconds=90)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "99999"),
        ("PORT", "http"),
        ("MAX_QUEUE", "0"),
        ("ROLES", "contextualise"),
        ("ROLES", ","),
        ("DEVICE", "gpu"),
        ("DEFAULT_TTL", "-1"),
        ("DEFAULT_TTL", "soon"),
        ("DEFAULT_TTL", "9999d"),
        ("MAX_BODY_BYTES", "12"),
        ("ENGINE_URL", "localhost:1"),
        ("ENGINE_ARGS", "--a 'b"),
        ("MAX_CPU_LORAS", "2"),
        ("GENERATOR", "/nowhere"),
        ("HOST", "0.0.0.0"),
    ],
)
def test_nonsense_is_one_clear_line(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"GENADAPTER_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"GENADAPTER_{name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_machines_need_keys_or_plain_words() -> None:
    for fields in ({"api_keys_file": Path("keys.json")}, {"allow_anyone_to_use_this_service": True}):
        given: dict[str, Any] = {"host": "0.0.0.0", **fields}
        assert not load_settings(**given).is_loopback
    for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1"):
        assert load_settings(host=host).is_loopback


def test_unknown_variables_are_found() -> None:
    assert unknown_variables({"GENADAPTER_PROT": "1", "GENADAPTER_PORT": "1", "GENADAPTER_URL": "", "HOME": "/"}) == [
        "GENADAPTER_PROT"
    ]
