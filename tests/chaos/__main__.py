"""The long tests, against the real service, engine and store:

    python -m tests.chaos            parts killed, paused, slowed and filled under load (CHAOS_MINUTES, CHAOS_SEED)
    python -m tests.chaos kills      the service killed while it makes adapters (CHAOS_CREATES, CHAOS_SEED)
    python -m tests.chaos soak       the same load for long, and nothing may grow (SOAK_MINUTES)

The last line is a JSON object; the exit code is 0 when nothing was wrong, lost or against the contract.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from tests.chaos.documents import all_documents, question, record
from tests.chaos.faults import Faults
from tests.chaos.kills import STATE_SIZE, kills
from tests.chaos.load import QUIET_S, Load
from tests.chaos.report import Result, finish, verify
from tests.chaos.soak import soak
from tests.chaos.stack import Stack, started

CANARY_S = 5.0


async def chaos(stack: Stack) -> Result:
    minutes, seed = float(os.environ.get("CHAOS_MINUTES", "10")), int(os.environ.get("CHAOS_SEED", "1"))
    print(f"chaos: {minutes:g} minutes, seed {seed}", flush=True)
    async with AsyncExitStack() as exits:
        clients = {tenant: await exits.enter_async_context(stack.client(tenant)) for tenant in stack.keys}
        documents = all_documents()
        bare = await record(clients, documents)
        canary_client = await exits.enter_async_context(stack.client("acme", CANARY_S))

        async def canary() -> bool:
            """Reads and writes, with an adapter and without, as a user would see it."""
            try:
                answers = [
                    await canary_client.post("/generate", json=question(None)),
                    await canary_client.post("/contextualize", json={"text": "The canary sings."}),
                    await canary_client.get("/readyz"),
                ]
            except httpx.TransportError:
                return False
            return all(answer.is_success for answer in answers)

        faults = Faults(stack, canary, seed)
        load = Load(clients, documents, bare, lambda: not faults.active and time.monotonic() - faults.last_s > QUIET_S)
        until_s = time.monotonic() + minutes * 60
        await asyncio.gather(load.run(until_s, seed), faults.run(until_s))
        await verify(load)
    for name in faults.not_recovered:
        load.tally.note("contract_violations", f"no recovery after: {name}")
    recoveries = faults.recoveries_s
    worst = max((seconds for found in recoveries.values() for seconds in found), default=0.0)
    return finish(load, recovery_s=worst, recoveries_s=recoveries, minutes=minutes, seed=seed)


async def run(what: Callable[[Stack], Awaitable[Result]], **options: int) -> Result:
    """When it returns, all parts have ended. The logs of a run that was not clean stay."""
    folder = Path(tempfile.mkdtemp(prefix="genadapter-chaos-"))
    print(f"logs in {folder}; starting the store, the engine and the service (about a minute)", flush=True)
    async with started(folder, **options) as stack:
        result = await what(stack)
    if result.is_clean:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return result


def main() -> None:
    runs = {"chaos": chaos, "kills": kills, "soak": soak}
    name = sys.argv[1] if len(sys.argv) > 1 else "chaos"
    if name not in runs:
        sys.exit(__doc__)
    options = {"state_size": STATE_SIZE} if name == "kills" else {}
    result = asyncio.run(run(runs[name], **options))
    sys.stderr.flush()
    print(result.line, flush=True)
    # At once: what Python says of objects that it finds now would come after the line.
    os._exit(0 if result.is_clean else 1)


if __name__ == "__main__":
    main()
