"""`genadapter eval`: what adapters know, measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from service.commands.training import fail

DEFAULT_DATA = Path("../shared/data")

evaluation = typer.Typer(no_args_is_help=True, help="Measure what adapters know.")


@evaluation.command()
def quality(
    checkpoint: Annotated[str | None, typer.Option(help="Checkpoint folder; the shipped one by default.")] = None,
    data: Annotated[Path, typer.Option(help="Folder with the sources as SOURCE.jsonl.zst.")] = DEFAULT_DATA,
    limit: Annotated[int, typer.Option(min=8, help="Documents, at most; a quarter as many conversations.")] = 200,
    split: Annotated[str, typer.Option(help="dev or test.")] = "test",
    seed: Annotated[int, typer.Option(help="Chooses the documents.")] = 0,
    sources: Annotated[str | None, typer.Option(help="qa-squad,qa-nq-qed,qa-personachat by default.")] = None,
    generate: Annotated[bool, typer.Option(help="Have answers generated too: F1 and exact match.")] = True,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
) -> None:
    """Held-out documents with no adapter, in the prompt, with their adapter, with another document's adapter.

    Example: genadapter eval quality --limit 50 --split dev
    """
    from generator.checkpoint import CheckpointError, default_checkpoint
    from generator.evaluation import report

    chosen = tuple(sources.split(",")) if sources else report.DOCUMENTS + report.CONVERSATIONS
    wanted = report.Wanted(split, limit, seed, chosen, generate=generate, progress=not as_json)
    try:
        measured = report.measure(checkpoint or default_checkpoint(), data, wanted)
    except (CheckpointError, FileNotFoundError) as error:
        fail(error)
    text = json.dumps(measured, indent=2)
    if out is not None:
        out.write_text(text + "\n")
    print(text if as_json else report.table(measured))
