"""How `genadapter serve` ends."""

from __future__ import annotations

import socket
import subprocess
import sys

from service.commands.serve import _listen
from service.settings import Settings

# A pass of the generator that is still running when everything else has ended.
BUSY = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from service.commands import serve

async def ended(settings, stages):
    ThreadPoolExecutor(1).submit(time.sleep, 600)
    print("all closed")
    return 7

serve._serve = ended
serve.serve(host=None, port=None)
"""


def test_the_end_waits_for_no_thread() -> None:
    ended = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, timeout=60)
    assert ended.returncode == 7, ended.stderr
    assert ended.stdout == b"all closed\n", "what was printed is not lost"


def test_no_answer_waits_for_an_acknowledgement() -> None:
    with _listen(Settings(_env_file=None, port=0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
