"""What a process that reads hostile files may do: compute. `confine` takes everything else away, in layers.

    layer      from                  takes away                                                  where
    namespace  user namespaces       every network, the loopback interface included              Linux that allows them
    landlock   Linux 5.13            all files but the interpreter's and the system's libraries,
                                     which can only be read; TCP (6.7)                           Linux
    seccomp    Linux 3.5             sockets, processes, programs, signals, changes to files     Linux on x86-64, arm64
    hook       CPython's audit hooks the same, for Python code alone                             everywhere

Each layer is tried by itself: a container may forbid the first, an old kernel know no second. Code that has taken over a
C library is held by the first three only. Nothing here needs privileges. Loads the standard library alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_VERSION_FLAG, LANDLOCK_PATH_BENEATH = 1, 1
LANDLOCK_READ = 1 << 2 | 1 << 3  # files, folders
# Rights over files and folders that a version of the interface knows: 13, one more, one more, the same, one more.
LANDLOCK_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
LANDLOCK_TCP = 0b11  # bind, connect; from version 4
LANDLOCK_SCOPES = 0b11  # abstract sockets, signals; from version 6
SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64")

SECCOMP_MODE_FILTER = 2
SECCOMP_ALLOW, SECCOMP_REFUSE, SECCOMP_KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
BPF_LOAD, BPF_EQUAL, BPF_AT_LEAST, BPF_RETURN = 0x20, 0x15, 0x35, 0x06
X32_CALLS = 0x40000000
# The same names on both machines; 0: there is no such call.
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED_CALLS = {
    # network
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "io_uring_setup": (425, 425),
    # processes
    "fork": (57, 0),
    "vfork": (58, 0),
    "clone": (56, 220),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "prlimit64": (302, 261),
    "setrlimit": (160, 164),
    # the system
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    # changes to files
    "unlink": (87, 0),
    "unlinkat": (263, 35),
    "rename": (82, 0),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "rmdir": (84, 0),
    "mkdir": (83, 0),
    "mkdirat": (258, 34),
    "link": (86, 0),
    "linkat": (265, 37),
    "symlink": (88, 0),
    "symlinkat": (266, 36),
    "truncate": (76, 45),
    "creat": (85, 0),
    "chmod": (90, 0),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, 0),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utimensat": (280, 88),
}
REFUSED_EVENTS = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.kill", "ctypes.dl")
OPEN_FILES = 64


def limit_resources(memory_bytes: int, cpu_s: int) -> None:
    """Memory, processor time, open files; no file can grow, no process be made, no core be left."""
    limits = {"AS": memory_bytes, "CPU": cpu_s, "NOFILE": OPEN_FILES, "FSIZE": 0, "CORE": 0, "NPROC": 0}
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def confine() -> list[str]:
    """The layers in force from now on. Whatever is needed must have been imported, for the most part."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # the process ends with the one that started it
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    layers = [("namespace", _leave_networks), ("landlock", _close_files), ("seccomp", _refuse_calls)]
    in_force = [name for name, close in layers if close(libc)]
    sys.addaudithook(_refuse_events)
    return [*in_force, "hook"]


def _leave_networks(libc: Any) -> bool:
    return bool(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)


def _close_files(libc: Any) -> bool:
    version = libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION_FLAG)
    if version < 1:
        return False
    rights = (1 << LANDLOCK_FILE_RIGHTS[min(version, max(LANDLOCK_FILE_RIGHTS))]) - 1
    fields = [rights] + [LANDLOCK_TCP] * (version >= 4) + [LANDLOCK_SCOPES] * (version >= 6)
    rules = struct.pack(f"{len(fields)}Q", *fields)
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset < 0:
        return False
    try:
        for folder in {*SYSTEM_FOLDERS, sys.prefix, sys.base_prefix}:
            if Path(folder).is_dir():
                _allow_reading(libc, ruleset, folder)
        return bool(libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _allow_reading(libc: Any, ruleset: int, folder: str) -> None:
    descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        libc.syscall(
            LANDLOCK_ADD_RULE, ruleset, LANDLOCK_PATH_BENEATH, struct.pack("=Qi", LANDLOCK_READ, descriptor), 0
        )
    finally:
        os.close(descriptor)


def _refuse_calls(libc: Any) -> bool:
    machine = platform.machine()
    if machine not in ARCHITECTURES or sys.maxsize < 2**32:
        return False
    program = _filter(machine)
    code = ctypes.create_string_buffer(b"".join(program), 8 * len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0) == 0)


def _filter(machine: str) -> list[bytes]:
    """A BPF program: calls of this architecture are allowed but for those above, which answer EPERM."""

    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    column = list(ARCHITECTURES).index(machine)
    numbers = sorted({places[column] for places in REFUSED_CALLS.values()} - {0})
    head = [step(BPF_LOAD, 4), step(BPF_EQUAL, ARCHITECTURES[machine], 1, 0), step(BPF_RETURN, SECCOMP_KILL)]
    head += [step(BPF_LOAD, 0), step(BPF_AT_LEAST, X32_CALLS, len(numbers) + 1, 0)]
    checks = [step(BPF_EQUAL, number, len(numbers) - place, 0) for place, number in enumerate(numbers)]
    return [*head, *checks, step(BPF_RETURN, SECCOMP_ALLOW), step(BPF_RETURN, SECCOMP_REFUSE)]


def _refuse_events(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and (
        any(letter in (arguments[1] or "") for letter in "wax+") or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
    )
    if writes or event.startswith(REFUSED_EVENTS):
        raise PermissionError(f"{event} is not allowed here")
