from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from service.vllm_plugin.files import (
    CHECKSUM_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
    CacheFull,
    verify,
    write_folder,
)

WEIGHTS = b"w" * 1000


def fill(folder: Path) -> None:
    (folder / WEIGHTS_FILE).write_bytes(WEIGHTS)
    (folder / CONFIG_FILE).write_bytes(b"{}")


@pytest.fixture
def files(tmp_path: Path) -> AdapterFiles:
    return AdapterFiles(tmp_path, max_bytes=3 * 1100)


def add(files: AdapterFiles, *names: str) -> None:
    for name in names:
        files.add(name, write_folder(files.folder, fill))


def test_the_least_recently_used_goes_first_and_what_is_in_use_stays(files):
    files.take("a")
    add(files, "a", "b", "c")
    assert files.has("b")  # a look is a use
    add(files, "d")
    assert files.ids() == ["a", "b", "d"]
    add(files, "e", "f")
    assert files.has("a")
    assert len(files.ids()) == 3
    files.release("a")
    add(files, "g", "h", "i")
    assert files.ids() == ["g", "h", "i"]
    assert files.total_bytes <= files.max_bytes
    assert {path.name for path in files.folder.iterdir()} == {"g", "h", "i"}


def test_no_room_when_everything_is_in_use(files):
    for name in "abc":
        files.take(name)
        add(files, name)
    with pytest.raises(CacheFull):
        add(files, "d")
    assert {path.name for path in files.folder.iterdir()} == {"a", "b", "c"}


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_others_fill_is_made_room_on(tmp_path: Path, full: Exception) -> None:
    files = AdapterFiles(tmp_path, max_bytes=100 * 1100)
    room = 3 * len(WEIGHTS)

    def expand(parent: Path) -> Path:
        def write(folder: Path) -> None:
            if sum(file.stat().st_size for file in parent.rglob(WEIGHTS_FILE)) + len(WEIGHTS) > room:
                raise full
            fill(folder)

        return write_folder(parent, write)

    def bring(name: str) -> Path:
        return asyncio.run(files.bring(name, expand))

    files.take("a")
    for name in "abc":
        bring(name)
    assert bring("d").is_dir()
    assert files.ids() == ["a", "d"], "what is in use stays"
    room = 0
    with pytest.raises(CacheFull):
        bring("e")
    assert {path.name for path in files.folder.iterdir()} == {"a"}
    room = 2 * len(WEIGHTS)
    assert bring("e").is_dir(), "it works again by itself"


def test_damage_and_loss_are_noticed(files):
    add(files, "a")
    verify(files.path("a"))
    (files.path("a") / WEIGHTS_FILE).write_bytes(b"v" + WEIGHTS[1:])
    with pytest.raises(ValueError, match="checksum"):
        verify(files.path("a"))
    (files.path("a") / WEIGHTS_FILE).unlink()
    with pytest.raises(OSError):
        verify(files.path("a"))
    assert not files.has("a")
    assert files.total_bytes == 0


def test_a_failed_write_leaves_nothing(files):
    def fail(folder: Path) -> None:
        fill(folder)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_folder(files.folder, fail)
    assert list(files.folder.iterdir()) == []


def test_folders_of_engines_that_are_gone_are_cleared_away(tmp_path):
    import os

    first = AdapterFiles(tmp_path, 1 << 20)
    add(first, "a")
    os.utime(first.folder, (0, 0))
    second = AdapterFiles(tmp_path, 1 << 20)
    assert first.folder.is_dir()
    os.close(first._lock)  # as when its process dies
    AdapterFiles(tmp_path, 1 << 20)
    assert not first.folder.exists()
    assert second.folder.is_dir()
    assert not (second.folder / CHECKSUM_FILE).exists()
