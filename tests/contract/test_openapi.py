"""The description of the API: a change of it must be seen.

`UPDATE_SNAPSHOT=1 pytest tests/contract/test_openapi.py` records it anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from service.app import create_app
from service.schemas import ContextualizeRequest, GenerateRequest
from service.settings import Settings

SNAPSHOT = Path(__file__).with_name("openapi.json")


def test_the_description_is_as_recorded() -> None:
    found = (
        json.dumps(create_app(Settings(_env_file=None)).openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    )
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(found)
    assert found == SNAPSHOT.read_text(), "the API changed: if that is meant, record it with UPDATE_SNAPSHOT=1"


def test_every_reference_leads_somewhere_and_every_error_has_an_example() -> None:
    schema = create_app(Settings(_env_file=None)).openapi()
    known = {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]}
    assert set(references(schema)) <= known
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400 and path not in ("/readyz",):
                    assert "ErrorBody" in json.dumps(answer), (path, status)
    for model in (ContextualizeRequest, GenerateRequest):
        for example in model.model_json_schema()["examples"]:
            model.model_validate(example)


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        here = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return here + [found for item in value.values() for found in references(item)]
    return [found for item in value for found in references(item)] if isinstance(value, list) else []
