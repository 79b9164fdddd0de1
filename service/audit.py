"""The audit log: who made, reused and deleted which adapter, and who was turned away. JSON, one event a line.

Holds names of tenants and keys, ids, counts and request ids; never a text, a key or its hash, a file name or metadata.
docs/security.md lists the events.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from service.ids import is_adapter_id

logger = logging.getLogger(__name__)

# Old files kept beside the one being written.
KEPT_FILES = 8
# A log that cannot be written is complained of this often.
COMPLAINT_S = 60.0
# Refusals cost the one who provokes them nothing: so many are logged at once and then each second, the rest is counted.
DENIED_BURST = 100
DENIED_PER_S = 10.0


@dataclass(frozen=True)
class Who:
    """A caller. `key` is the key's name."""

    tenant: str | None
    key: str | None
    request_id: str


class AuditLog:
    """Appends to a file that only its owner may read and that is rotated by size, or writes to standard error."""

    def __init__(self, path: Path | None, max_bytes: int) -> None:
        self._handler = _stderr() if path is None else _file(path, max_bytes)
        self._handler.setFormatter(logging.Formatter("%(message)s"))
        # Of its own: no configuration of logging can send it elsewhere, and two apps in one process do not meet.
        self._logger = logging.Logger("genadapter.audit", logging.INFO)
        self._logger.addHandler(self._handler)
        self._tokens, self._filled_s = float(DENIED_BURST), time.monotonic()
        self._suppressed = 0

    def write(self, event: str, who: Who, adapter: str | None = None, **facts: Any) -> None:
        line: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        line |= {"tenant": who.tenant, "key": who.key, "request_id": who.request_id, "adapter": adapter}
        self._logger.info(json.dumps(line | facts, ensure_ascii=True))

    def denied(self, who: Who, reason: str, adapter: str | None = None) -> None:
        """`adapter` is what was sent as an id: it is written down only if it is one."""
        now_s = time.monotonic()
        self._tokens = min(DENIED_BURST, self._tokens + (now_s - self._filled_s) * DENIED_PER_S)
        self._filled_s = now_s
        if self._tokens < 1:
            self._suppressed += 1
            return
        self._tokens -= 1
        named = adapter if adapter and is_adapter_id(adapter) else None
        suppressed = {"suppressed": self._suppressed} if self._suppressed else {}
        self._suppressed = 0
        self.write("denied", who, named, reason=reason, **suppressed)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # said before
            self._handler.close()


def _stderr() -> logging.Handler:
    return logging.StreamHandler(sys.stderr)


def _file(path: Path, max_bytes: int) -> logging.Handler:
    """Raises OSError."""

    class OwnersFile(RotatingFileHandler):
        failed_s = -math.inf

        def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
            """A full disk must not stop the service, nor fill another log with a stack for each line that is lost."""
            if time.monotonic() - self.failed_s > COMPLAINT_S:
                self.failed_s = time.monotonic()
                logger.error("the audit log %s cannot be written: lines are lost", path)

        def _open(self) -> Any:
            descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            return os.fdopen(descriptor, self.mode, encoding="ascii")

    return OwnersFile(path, maxBytes=max_bytes, backupCount=KEPT_FILES)
