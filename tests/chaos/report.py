"""What a run ends with: a line of JSON, and an exit code."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tests.chaos.documents import Document, answer_of, question
from tests.chaos.judge import TRANSIENT, Tally, is_same
from tests.chaos.load import Load

PATIENCE = 20
PAUSE_S = 1.0


@dataclass(frozen=True)
class Result:
    line: str
    is_clean: bool


async def verify(load: Load) -> None:
    """When all is well again: what was promised is there and answers as it did, what was deleted is gone."""
    for document in load.documents:
        await _verify(load, document)


async def _verify(load: Load, document: Document) -> None:
    for _ in range(PATIENCE):
        response = await load.clients[document.tenant].post("/generate", json=question(document.id))
        if response.status_code not in TRANSIENT:
            break
        await asyncio.sleep(PAUSE_S)
    else:
        load.tally.note("contract_violations", f"at the end: {document.id} is still refused: {response.text[:200]}")
        return
    load.tally.check("verify", response, {200, 404})
    if response.status_code == 404 and document.state == "there":
        load.tally.note("lost_adapters", f"at the end: {document.id}")
    if response.status_code == 200:
        if document.state == "gone":
            load.tally.note("contract_violations", f"at the end: {document.id} was deleted, and answers")
        load.tally.compared += 1
        if not is_same(answer_of(response), document.expected):
            load.tally.note("wrong_answers", f"at the end: {document.id}")


def finish(load: Load, **facts: Any) -> Result:
    more = {"compared": load.tally.compared, "refused_when_quiet": load.tally.refused_when_quiet}
    return result_of(load.tally, **facts, **more)


def result_of(tally: Tally, **facts: Any) -> Result:
    counts = {
        "requests": tally.requests,
        "wrong_answers": tally.wrong_answers,
        "lost_adapters": tally.lost_adapters,
        "contract_violations": tally.contract_violations,
    }
    statuses = {str(status): count for status, count in sorted(tally.statuses.items())}
    return Result(json.dumps(counts | facts | {"statuses": statuses, "examples": tally.examples}), tally.is_clean)
