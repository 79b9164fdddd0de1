"""The folder of expanded LoRAs that vLLM loads from: bounded in bytes, least recently used first out.

A folder appears complete or not at all (written aside, then renamed), carries a checksum, and is kept while it is in use,
because vLLM may load it again inside a step. Several engines may share a root: each writes into a folder of its own, held by a
lock, and clears away those whose owner is gone. Nothing here is worth keeping: the store is the truth.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

from service.disk import is_full

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
CHECKSUM_FILE = "sha256"
# Room wanted on the RAM disk before it is chosen.
MIN_RAM_DISK_BYTES = 256 << 20
# What an engine may use of a file system (a container's /dev/shm may have 64 MiB) when there is no more room than that.
MAX_SHARE_OF_FREE = 0.5


def default_cache_root() -> Path:
    """Where expanded adapters go: a RAM disk with some room, the temporary folder otherwise."""
    name = f"genadapter-{os.getuid()}"
    ram = Path("/dev/shm")  # noqa: S108  # the folder made in it is ours alone
    if ram.is_dir() and os.access(ram, os.W_OK) and shutil.disk_usage(ram).free >= MIN_RAM_DISK_BYTES:
        return ram / name
    return Path(tempfile.gettempdir()) / name


class CacheFull(RuntimeError):
    """No room for one more adapter: all the others are in use."""


class AdapterFiles:
    """Folders by adapter id. Not thread-safe: one event loop owns it."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_abandoned(root)
        self.folder = Path(tempfile.mkdtemp(prefix="engine-", dir=root))
        self._lock = _hold(self.folder)
        free = shutil.disk_usage(root).free
        self.max_bytes = min(max_bytes, int(free * MAX_SHARE_OF_FREE))
        self.total_bytes = 0
        self._bytes: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._users: Counter[str] = Counter()

    def path(self, adapter_id: str) -> Path:
        return self.folder / adapter_id

    def has(self, adapter_id: str) -> bool:
        """Whether the folder is there; forgets one that somebody else removed."""
        if adapter_id not in self._bytes:
            return False
        if (self.path(adapter_id) / WEIGHTS_FILE).is_file():
            self._bytes.move_to_end(adapter_id)
            return True
        self.remove(adapter_id)
        return False

    def ids(self) -> list[str]:
        return list(self._bytes)

    def in_use(self, adapter_id: str) -> bool:
        return self._users[adapter_id] > 0

    def used(self) -> set[str]:
        return set(+self._users)

    def take(self, adapter_id: str) -> None:
        """Keep this one until it is released as often as it was taken. It need not exist yet."""
        self._users[adapter_id] += 1
        if adapter_id in self._bytes:
            self._bytes.move_to_end(adapter_id)

    def release(self, adapter_id: str) -> None:
        self._users[adapter_id] -= 1
        if self._users[adapter_id] <= 0:
            del self._users[adapter_id]

    async def bring(self, adapter_id: str, expand: Callable[[Path], Path]) -> Path:
        """`expand`, run in a thread, writes a folder below the one it is given (`write_folder`). Somebody else may fill the
        disk: what no request uses then makes room, and comes back at its next use. Raises `CacheFull` and what `expand` does."""
        for unused in ([name for name in self._bytes if not self.in_use(name)], []):
            try:
                return self.add(adapter_id, await asyncio.to_thread(expand, self.folder))
            except Exception as error:
                if not is_full(error):
                    raise
            for name in unused:
                self.remove(name)
        raise CacheFull(f"the file system of {self.folder} is full")

    def add(self, adapter_id: str, scratch: Path) -> Path:
        """Take over a folder that `write_folder` wrote; drops others to stay below the bound. Raises `CacheFull`."""
        size = sum(file.stat().st_size for file in scratch.iterdir())
        for other in list(self._bytes):
            if self.total_bytes + size <= self.max_bytes:
                break
            if not self.in_use(other):
                self.remove(other)
        if self.total_bytes + size > self.max_bytes:
            shutil.rmtree(scratch, ignore_errors=True)
            raise CacheFull(f"{len(self._bytes)} adapters in use fill the adapter cache of {self.max_bytes >> 20} MiB")
        self.remove(adapter_id)
        scratch.rename(self.path(adapter_id))
        self._bytes[adapter_id] = size
        self.total_bytes += size
        return self.path(adapter_id)

    def remove(self, adapter_id: str) -> None:
        self.total_bytes -= self._bytes.pop(adapter_id, 0)
        if self.path(adapter_id).exists():
            # Out of sight first: a reader sees a whole folder or none. No new folder: a full disk may have no room for it.
            grave = self.folder / f".gone-{secrets.token_hex(8)}"
            self.path(adapter_id).rename(grave)
            shutil.rmtree(grave, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def write_folder(parent: Path, write: Callable[[Path], None]) -> Path:
    """A new folder below `parent`, filled by `write` and sealed with a checksum."""
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    try:
        write(scratch)
        (scratch / CHECKSUM_FILE).write_text(_checksum(scratch))
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return scratch


def verify(folder: str | Path) -> None:
    """Raises OSError when a file is missing, ValueError when the weights are not what was written."""
    if (Path(folder) / CHECKSUM_FILE).read_text() != _checksum(Path(folder)):
        raise ValueError("the checksum is wrong")


def _checksum(folder: Path) -> str:
    digest = hashlib.sha256((folder / CONFIG_FILE).read_bytes())
    with (folder / WEIGHTS_FILE).open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _hold(folder: Path) -> int:
    """Lock a folder for as long as this process lives; the descriptor that holds the lock."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob("engine-*"):
        try:
            young = time.time() - folder.stat().st_mtime < 1.0  # made, but perhaps not locked yet
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not young:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # its engine lives
        finally:
            os.close(descriptor)
