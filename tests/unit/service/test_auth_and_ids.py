"""Keys to tenants, and requests to ids."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from service import auth
from service.auth import DEFAULT_TENANT, Authenticator, hash_key
from service.errors import Unauthorized
from service.ids import WeightOptions, adapter_id, is_adapter_id
from service.settings import SettingsError


def write(path: Path, **tenants: str) -> None:
    """A key file; each argument is key=tenant."""
    keys = [{"name": key, "tenant": tenant, "sha256": hash_key(key)} for key, tenant in tenants.items()]
    path.write_text(json.dumps({"keys": keys}))


def test_keys_name_tenants(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write(path, key1="acme", key2="beta")
    authenticator = Authenticator(path)
    assert authenticator.caller("Bearer key1").tenant == "acme"
    assert authenticator.caller("bearer  key2").tenant == "beta"
    for header in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer nokey",
        "Basic key1",
        "key1",
        "Bearer \udcff",
        "Bearer key1 key2",
    ):
        with pytest.raises(Unauthorized):
            authenticator.caller(header)
    assert Authenticator(None).caller("Bearer whatever").tenant == DEFAULT_TENANT


def test_a_changed_file_is_read_again_and_a_broken_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "RECHECK_S", 0)
    path = tmp_path / "keys.json"
    write(path, key1="acme")
    authenticator = Authenticator(path)
    path.write_text("{")
    assert authenticator.caller("Bearer key1").tenant == "acme"
    write(path, key2="beta")
    os.utime(path, (1, 1))
    assert authenticator.caller("Bearer key2").tenant == "beta"
    with pytest.raises(Unauthorized):
        authenticator.caller("Bearer key1")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"keys": [{"tenant": "a"}]}',
        '{"keys": [{"tenant": "a", "sha256": "short"}]}',
        json.dumps({"keys": [{"tenant": "a}b", "sha256": "0" * 64}]}),
    ],
)
def test_a_bad_key_file_stops_the_start_with_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(SettingsError, match="API_KEYS_FILE") as caught:
        Authenticator(path)
    assert "\n" not in str(caught.value)


def test_every_part_of_a_request_decides_its_id() -> None:
    parts: dict[str, Any] = {"secret": b"s", "tenant": "t", "base_fingerprint": "b", "generator_fingerprint": "g"}
    parts |= {"options": WeightOptions("concat"), "token_ids": [1, 2, 3]}
    same = adapter_id(**parts)
    assert is_adapter_id(same)
    assert adapter_id(**parts) == same
    changes: list[dict[str, Any]] = [
        {"secret": b"other"},
        {"tenant": "u"},
        {"base_fingerprint": "c"},
        {"generator_fingerprint": "h"},
        {"options": WeightOptions("parallel")},
        {"options": WeightOptions("concat", keep_state=True)},
        {"options": WeightOptions("concat", parent=same)},
        {"token_ids": [1, 2]},
        {"token_ids": [1, 2, 3, 0]},
        {"tenant": "tb", "base_fingerprint": ""},
    ]
    ids = {adapter_id(**{**parts, **change}) for change in changes}
    assert len(ids | {same}) == len(changes) + 1
