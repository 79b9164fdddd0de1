"""The harness through a running service gives the answers that it gives in process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from generator import load_generator
from generator.checkpoint import default_checkpoint
from generator.evaluation.engines import Engine, InProcess
from generator.evaluation.harness import Harness, Plan
from generator.evaluation.served import Served
from generator.evaluation.tasks import CLOSED, OWN, PROMPT
from tests.e2e.test_serve import serving

pytestmark = pytest.mark.timeout(900)

DOCUMENTS = json.loads((Path(__file__).parents[1] / "data" / "knowledge.json").read_text())
# Both in float32; the service stores adapters in bfloat16 and its engine adds in another order: where two tokens are all but
# equally likely, a greedy answer may go another way. More than one in six would be another prompt or another adapter.
TIES = 1


def answers(engine: Engine, data: Path, folder: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    plan = Plan(tasks=("documents",), limit=2, tuned=0, lengths=(512,), questions=3)
    records = Harness(engine, plan, data, folder, {"checkpoint": "", "base_model": "", "answers": ""}).run(
        progress=False
    )
    replies = ((record, index, reply) for record in records for index, reply in enumerate(record["replies"]))
    return {(record["method"], record["item"], index): reply for record, index, reply in replies}


def test_served_answers_are_those_in_process(tmp_path: Path) -> None:
    lines = [
        {
            "id": q["question"],
            "title": d["title"],
            "context": d["text"],
            "question": q["question"],
            "answers": [q["answer"]],
        }
        for d in DOCUMENTS
        for q in d["questions"]
    ]
    (tmp_path / "qa-squad.jsonl").write_text("".join(json.dumps(line | {"split": "test"}) + "\n" for line in lines))
    checkpoint = default_checkpoint()
    with serving(tmp_path, engine_args="--dtype float32") as service:
        engine = Served.at(str(service.client.base_url), checkpoint)
        with engine.client:
            served = answers(engine, tmp_path, tmp_path / "served")
    inside = answers(InProcess(load_generator(checkpoint)), tmp_path, tmp_path / "inside")
    assert served.keys() == inside.keys()
    for method in (CLOSED, PROMPT, OWN):
        keys = [key for key in served if key[0] == method]
        assert len(keys) == 6
        same = [served[key]["answer"].strip() == inside[key]["answer"].strip() for key in keys]
        assert sum(same) >= len(keys) - TIES, method
