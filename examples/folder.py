"""All documents of a folder become adapters, some at a time, with a progress bar; the ids go into a JSON file.

python examples/folder.py my-documents adapters.json

Needs a running service (`make run`). A busy service says when to come back, and the client waits: nothing to do here. Run
again after an interruption it goes on quickly, because the same document is the same adapter.
"""

import asyncio
import json
import sys
from pathlib import Path

from rich.progress import Progress

from service.client import ApiError, AsyncClient

TYPES = {".txt", ".md", ".html", ".pdf", ".docx"}
AT_ONCE = 4  # more would only wait in the service's queue


async def read_all(files: list[Path], progress: Progress) -> dict[str, str]:
    """The ids by path, of those that could be read."""
    bar = progress.add_task("reading", total=len(files))
    made: dict[str, str] = {}
    turns = asyncio.Semaphore(AT_ONCE)
    async with AsyncClient() as client, asyncio.TaskGroup() as group:

        async def read(path: Path) -> None:
            async with turns:
                try:
                    adapter = await client.contextualize(files=[path], metadata={"path": str(path)[-512:]})
                    made[str(path)] = adapter.id
                except ApiError as error:  # one document that cannot be read does not stop the others
                    progress.console.print(f"{path}: {error}", style="red", markup=False)
                progress.advance(bar)

        for path in files:
            group.create_task(read(path))
    return made


if len(sys.argv) != 3:
    sys.exit(__doc__)
folder, target = map(Path, sys.argv[1:])
files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in TYPES)
if not files:
    sys.exit(f"{folder} holds no documents ({' '.join(sorted(TYPES))})")
with Progress() as progress:
    made = asyncio.run(read_all(files, progress))
target.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
print(f"{len(made)} of {len(files)} documents: {target}")
