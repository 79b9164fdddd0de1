"""Right or wrong: what an adapter's answer must look like, and what the contract lets an answer be at all."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from numpy.linalg import norm
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

# Of a log probability: far above what a batch's order of additions changes in float32, far below what an adapter does.
TOLERANCE = 0.05
# Greedy choices closer than this may fall either way; what follows such a one is another text.
TIE = 0.1
COMMON_TOKENS = 3
KEPT_EXAMPLES = 20
TRANSIENT = frozenset({429, 503, 504})

Marker = tuple[dict[str, float], ...]
# By module, what is added to its weight: lora_B @ lora_A. The factors alone may turn when an adapter is made again.
Weights = dict[str, "NDArray[Any]"]
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
# Of the norm of an adapter's own weights: far above what bfloat16 and a batch's order of additions change.
WEIGHT_TOLERANCE = 0.05


def marker(logprobs: Sequence[dict[str, Any]]) -> Marker:
    """The likeliest tokens of each position with their log probabilities, from POST /generate's `logprobs.content`."""
    return tuple({top["token"]: top["logprob"] for top in item["top_logprobs"]} for item in logprobs)


def is_same(found: Marker, expected: Marker) -> bool:
    """Whether both come from the same weights. A shorter answer is compared as far as it goes."""
    if not found:
        return False
    for here, there in zip(found, expected, strict=False):
        common = here.keys() & there.keys()
        if len(common) < min(COMMON_TOKENS, len(there)) or any(abs(here[t] - there[t]) > TOLERANCE for t in common):
            return False
        best, second = sorted(there.values(), reverse=True)[:2]
        if best - second < TIE:
            break
    return True


def weights(archive: bytes) -> Weights:
    """From the zip of GET /adapters/{id}/peft; nothing from what is no such zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            tensors = load(files.read("adapter_model.safetensors"))
        modules = [name.removesuffix(LORA_A) for name in tensors if name.endswith(LORA_A)]
        return {module: tensors[module + LORA_B] @ tensors[module + LORA_A] for module in modules}
    except (zipfile.BadZipFile, SafetensorError, KeyError, ValueError):
        return {}


def is_same_weights(found: Weights, expected: Weights) -> bool:
    if not expected or found.keys() != expected.keys():
        return False
    pairs = [(found[name], expected[name]) for name in expected]
    return all(norm(here - there) <= WEIGHT_TOLERANCE * norm(there) for here, there in pairs)


@dataclass
class Tally:
    """What has been counted; the first examples of what should not be."""

    requests: int = 0
    wrong_answers: int = 0
    lost_adapters: int = 0
    contract_violations: int = 0
    compared: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    refused_when_quiet: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, count: str, what: str) -> None:
        setattr(self, count, getattr(self, count) + 1)
        if len(self.examples) < KEPT_EXAMPLES:
            self.examples.append(f"{count}: {what}")
        print(f"  !! {count}: {what}", flush=True)

    @property
    def is_clean(self) -> bool:
        return not (self.wrong_answers or self.lost_adapters or self.contract_violations)

    def check(self, operation: str, response: httpx.Response, expected: set[int]) -> bool:
        """Counts a response; whether it is one of those expected. A transient refusal is allowed at any time."""
        self.requests += 1
        self.statuses[response.status_code] += 1
        if problem := contract_problem(response):
            self.note("contract_violations", f"{operation}: {problem}")
        if response.status_code in expected:
            return True
        if response.status_code not in TRANSIENT | {404}:  # whether a 404 is a loss, the caller knows
            self.note("contract_violations", f"{operation}: status {response.status_code}: {response.text[:300]}")
        return False


def contract_problem(response: httpx.Response) -> str | None:
    """What is not as the contract says, whatever was asked."""
    if not response.headers.get("x-request-id"):
        return "no x-request-id"
    if response.status_code < 400:
        return None
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code} with a body that is none of ours: {response.text[:200]!r}"
    if set(error) != {"message", "type", "param", "code"}:
        return f"an error of another shape: {error}"
    if response.status_code in (429, 503) and not response.headers.get("retry-after", "").isdigit():
        return f"status {response.status_code} without Retry-After"
    return None
