"""API keys and tenants. Keys are kept as SHA-256 hashes only, in a JSON file that is read again when it changes:

{"keys": [{"name": "laptop", "tenant": "acme", "sha256": "<hex digest of the key>", "limits": {"max_in_flight": 4}}]}

`limits` may hold, each smaller than the service's own: `max_adapters` and `max_bytes` (what the tenant may keep for this
key to make more), and `max_in_flight` (requests of this key at once). `genadapter keys` writes the file.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from service.errors import LimitReached, Unauthorized
from service.settings import SettingsError

logger = logging.getLogger(__name__)

DEFAULT_TENANT = "default"
TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
SHA256_HEX = re.compile(r"[0-9a-f]{64}")
# How long a revoked key may still be taken; a stat of the file costs microseconds, so this is short.
RECHECK_S = 1.0
MAX_KEYS_FILE_BYTES = 16 * 1024**2
# Advice to a key with all its requests in flight: the next of them may end any moment.
IN_FLIGHT_WAIT_S = 1.0


@dataclass(frozen=True)
class KeyLimits:
    """None: as the service's settings say."""

    max_adapters: int | None = None
    max_bytes: int | None = None
    max_in_flight: int | None = None


LIMIT_NAMES = tuple(item.name for item in fields(KeyLimits))


@dataclass(frozen=True)
class Key:
    name: str
    tenant: str
    digest: bytes
    limits: KeyLimits = field(default_factory=KeyLimits)


# Who calls where there is no key file.
ANYBODY = Key("", DEFAULT_TENANT, b"")


def hash_key(key: str) -> str:
    """A key is 32 random bytes, so a plain hash cannot be turned back; no salt or stretching is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> dict[bytes, Key]:
    """The keys of a file by digest; raises SettingsError with one line."""
    try:
        if path.stat().st_size > MAX_KEYS_FILE_BYTES:
            raise ValueError("it is too large")
        keys = [_key(item) for item in json.loads(path.read_bytes())["keys"]]
    except FileNotFoundError:
        raise SettingsError(f"GENADAPTER_API_KEYS_FILE: {path} is not there: `genadapter keys add` makes it") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SettingsError(f"API_KEYS_FILE {path} cannot be used: {reason}") from None
    return {key.digest: key for key in keys}


def _key(item: dict[str, Any]) -> Key:
    name = str(item.get("name", ""))
    if not TENANT.fullmatch(item["tenant"]):
        raise ValueError(f"tenant {item['tenant']!r} must be 1 to 64 letters, digits, '.', '_' or '-'")
    if not SHA256_HEX.fullmatch(item["sha256"]):
        raise ValueError(f"the sha256 of key {name or '?'!r} is not 64 hex digits")
    limits: dict[str, Any] = item.get("limits") or {}
    for limit, value in limits.items():
        if limit not in LIMIT_NAMES:
            raise ValueError(f"key {name!r} has a limit {limit!r}; there are {', '.join(LIMIT_NAMES)}")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{limit} of key {name!r} is no whole number above 0")
    return Key(name, item["tenant"], bytes.fromhex(item["sha256"]), KeyLimits(**limits))


class Authenticator:
    """Tells whose a request is. Without a key file everybody is the one default tenant."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._keys = read_keys(path) if path else {}
        self._seen = self._stamp()
        self._checked_s = time.monotonic()
        self._in_flight: Counter[bytes] = Counter()

    @property
    def is_open(self) -> bool:
        return self._path is None

    def caller(self, authorization: str | None) -> Key:
        """Raises Unauthorized, with the same words for no key, a malformed header and a wrong key."""
        if self._path is None:
            return ANYBODY
        self._reread()
        scheme, _, presented = (authorization or "").partition(" ")
        digest = hashlib.sha256(presented.strip().encode("utf-8", "surrogatepass")).digest()
        key = self._keys.get(digest)
        if scheme.lower() != "bearer" or key is None or not hmac.compare_digest(digest, key.digest):
            raise Unauthorized()
        return key

    @contextmanager
    def in_flight(self, key: Key) -> Iterator[None]:
        """While a request of the key runs. Raises LimitReached when it has as many as it may have."""
        most = key.limits.max_in_flight
        if most is not None and self._in_flight[key.digest] >= most:
            raise LimitReached(
                f"This key may have {most} requests in flight, and has them.", retry_after_s=IN_FLIGHT_WAIT_S
            )
        self._in_flight[key.digest] += 1
        try:
            yield
        finally:
            self._in_flight[key.digest] -= 1
            if self._in_flight[key.digest] <= 0:
                del self._in_flight[key.digest]

    def _stamp(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _reread(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._checked_s < RECHECK_S:
            return
        self._checked_s = now
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = read_keys(self._path)
            logger.info("API keys read again: %d keys", len(self._keys))
        except SettingsError as error:
            logger.error("%s; the keys read before stay in force", error)
