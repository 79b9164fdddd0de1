"""Answers through a running service: adapters and engine as users get them. What needs losses is measured in process."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from generator.base_model import resolve_base_model
from generator.checkpoint import read_config, resolve_checkpoint
from generator.config import GeneratorConfig
from generator.evaluation.costs import Shape
from generator.evaluation.engines import Made, Reply, message, window_of
from generator.evaluation.items import Asked, Text

if TYPE_CHECKING:
    import httpx

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

    def __init__(self, client: httpx.Client, config: GeneratorConfig, tokenizer: Any, base_config: Any) -> None:
        self.client, self.config = client, config
        self.text = Text(
            lambda text: tokenizer(text, add_special_tokens=False).input_ids,
            lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        )
        self.shape, self.window = Shape.of(base_config), window_of(base_config)
        self._made: OrderedDict[str, Made] = OrderedDict()

    @classmethod
    def at(cls, url: str, checkpoint: str | os.PathLike[str]) -> Served:
        """checkpoint: the generator that the service runs, for lengths and costs. Raises `CheckpointError`."""
        import httpx
        from transformers import AutoConfig, AutoTokenizer

        config = read_config(resolve_checkpoint(checkpoint))
        folder = resolve_base_model(config.base_model)
        key = os.environ.get("GENADAPTER_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
        client = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)
        return cls(client, config, AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder))

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
