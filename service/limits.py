"""What a tenant may keep, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass

# Bounds of the advice to wait for an adapter's expiry.
MIN_WAIT_S, MAX_WAIT_S = 1.0, 3600.0


@dataclass(frozen=True)
class Limits:
    """Of a tenant's live adapters together: their number, and their bytes in the store."""

    max_adapters: int
    max_bytes: int

    def narrowed(self, max_adapters: int | None, max_bytes: int | None) -> Limits:
        """The smaller of these and others; None is no limit."""
        return Limits(
            min(self.max_adapters, max_adapters or self.max_adapters), min(self.max_bytes, max_bytes or self.max_bytes)
        )


@dataclass(frozen=True)
class Usage:
    """`first_end_s`: Unix time at which the first of the live adapters expires, None without any."""

    adapters: int
    bytes: int
    first_end_s: float | None

    def reached(self, limits: Limits, more_bytes: int = 0) -> str | None:
        """The limit, in words, that does not allow one more adapter of `more_bytes`."""
        if self.adapters >= limits.max_adapters:
            return f"You have {self.adapters} adapters, and {limits.max_adapters} is the limit"
        if self.bytes + more_bytes > limits.max_bytes or self.bytes >= limits.max_bytes:
            return f"Your adapters take {self.bytes} bytes, and {limits.max_bytes} is the limit"
        return None

    def wait_s(self, now_s: float) -> float:
        """Until room may come by itself."""
        return MAX_WAIT_S if self.first_end_s is None else min(MAX_WAIT_S, max(MIN_WAIT_S, self.first_end_s - now_s))
