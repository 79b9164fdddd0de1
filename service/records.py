"""What the service knows about one adapter, beside its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

Json = bytes


@dataclass(frozen=True)
class AdapterRecord:
    """The facts kept beside an adapter's weights. Times are Unix time in seconds."""

    id: str
    tenant: str
    base_model: str
    base_fingerprint: str
    generator_fingerprint: str
    strategy: str
    created_at: float
    expires_at: float
    tokens: int
    chunks: int
    rank: int
    bytes: int
    sha256: str
    parent: str | None = None
    # What appending needs, where it is kept: its size in the store, and its own end.
    state_bytes: int = 0
    state_expires_at: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> Json:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    def has_state(self, now: float) -> bool:
        """Whether it can be appended to."""
        return self.state_expires_at is not None and self.state_expires_at > now

    @classmethod
    def from_json(cls, data: Json) -> AdapterRecord:
        return cls(**json.loads(data))

    def public(self) -> dict[str, Any]:
        """The part that its owner sees."""
        return {
            "id": self.id,
            "object": "adapter",
            "base_model": self.base_model,
            "generator": self.generator_fingerprint,
            "created_at": int(self.created_at),
            "expires_at": int(self.expires_at),
            "tokens": self.tokens,
            "chunks": self.chunks,
            "rank": self.rank,
            "bytes": self.bytes,
            "strategy": self.strategy,
            "parent": self.parent,
            "state_expires_at": None if self.state_expires_at is None else int(self.state_expires_at),
            "metadata": self.metadata,
        }


@dataclass(frozen=True)
class Page:
    """One page of a listing, newest first."""

    records: list[AdapterRecord]
    has_more: bool


def checksum(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
