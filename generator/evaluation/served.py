"""Answers through a running service: adapters and engine as users get them. What needs losses is measured in process."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import Any

from generator.checkpoint import read_config, resolve_checkpoint
from generator.evaluation.costs import Shape
from generator.evaluation.engines import Made, Reply, message, packaged_tokenizer, window_of
from generator.evaluation.items import Asked, Text

_CONNECT_S, _ANSWER_S = 5.0, 900.0
# A busy service says when to come back; so often at most.
_TRIES = 5
_MAX_WAIT_S = 30.0
_KEPT = 64


class ServiceError(RuntimeError):
    """The service refused or cannot be reached; the message is its own."""


class Served:
    """An `Engine` behind a URL. The key comes from GENADAPTER_API_KEY."""

    kinds: tuple[str, ...] = ("chat",)

    def __init__(self, url: str, checkpoint: str | os.PathLike[str]) -> None:
        import httpx

        self.config = read_config(resolve_checkpoint(checkpoint))
        tokenizer, base_config = packaged_tokenizer(self.config.base_model)
        self.text = Text(
            lambda text: tokenizer(text, add_special_tokens=False).input_ids,
            lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        )
        self.shape, self.window = Shape.of(base_config), window_of(base_config)
        key = os.environ.get("GENADAPTER_API_KEY")
        self.client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
            trust_env=False,
        )
        self._made: OrderedDict[str, Made] = OrderedDict()

    def contextualize(self, document: str) -> Made:
        if document not in self._made:
            begin = time.perf_counter()
            body = self._post("/contextualize", {"text": document})
            self._made[document] = Made(body["id"], body["tokens"], time.perf_counter() - begin, body["bytes"])
            if len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return self._made[document]

    def ask(self, asked: list[Asked], contexts: list[str], handle: Any, max_tokens: int) -> list[Reply]:
        return [
            self._ask(message(context, one), handle, max_tokens) for one, context in zip(asked, contexts, strict=True)
        ]

    def _ask(self, content: str, adapter_id: str | None, max_tokens: int) -> Reply:
        begin = time.perf_counter()
        messages = [{"role": "user", "content": content}]
        body = self._post(
            "/generate", {"adapter_id": adapter_id, "messages": messages, "max_tokens": max_tokens, "temperature": 0.0}
        )
        usage = body["usage"]
        return Reply(
            text=body["choices"][0]["text"],
            prompt_tokens=usage["prompt_tokens"],
            made_tokens=usage["completion_tokens"],
            seconds=time.perf_counter() - begin,
        )

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        import httpx

        for _ in range(_TRIES):
            try:
                response = self.client.post(path, json=body)
            except httpx.HTTPError as error:
                raise ServiceError(f"{self.client.base_url}: {error or type(error).__name__}") from error
            if response.status_code not in (429, 503):
                break
            time.sleep(min(_MAX_WAIT_S, float(response.headers.get("retry-after", 1))))
        if not response.is_success:
            raise ServiceError(f"{path}: status {response.status_code}, {response.text[:200]}")
        result: dict[str, Any] = response.json()
        return result
