"""`genadapter eval`: what adapters know, measured."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.backend import WAIT_POLICY
from service.commands.client import EXIT_USAGE, JsonOption, Output

if TYPE_CHECKING:
    from generator.evaluation.engines import Engine
    from generator.evaluation.harness import Plan

DEFAULT_DATA = Path("../shared/data")
EXTRA = "pip install 'genadapter[eval]'"

evaluation = typer.Typer(no_args_is_help=True, help="Measure what adapters know.")

CheckpointOption = Annotated[str | None, typer.Option(help="Checkpoint folder; the shipped one by default.")]
DataOption = Annotated[Path, typer.Option(help="Folder with the sources as SOURCE.jsonl.zst.")]
DtypeOption = Annotated[
    str, typer.Option(help="auto, float32 or bfloat16: auto is float32 on CPUs without instructions for bfloat16.")
]


@evaluation.callback()
def prepare() -> None:
    """Threads that wait without spinning: beside other work, spinning ones take several times as long."""
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")


@evaluation.command()
def quality(
    checkpoint: CheckpointOption = None,
    data: DataOption = DEFAULT_DATA,
    limit: Annotated[int, typer.Option(min=8, help="Documents, at most; a quarter as many conversations.")] = 200,
    split: Annotated[str, typer.Option(help="dev or test.")] = "test",
    seed: Annotated[int, typer.Option(help="Chooses the documents.")] = 0,
    sources: Annotated[str | None, typer.Option(help="qa-squad,qa-nq-qed,qa-personachat by default.")] = None,
    dtype: DtypeOption = "auto",
    generate: Annotated[bool, typer.Option(help="Have answers generated too: F1 and exact match.")] = True,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Held-out documents with no adapter, in the prompt, with their adapter, with another document's adapter.

    Example: genadapter eval quality --limit 50 --split dev
    """
    from generator.checkpoint import CheckpointError, default_checkpoint
    from generator.evaluation import report
    from generator.generator import load_generator, resolve_dtype

    output = Output(as_json)
    chosen = tuple(sources.split(",")) if sources else report.DOCUMENTS + report.CONVERSATIONS
    wanted = report.Wanted(split, limit, seed, chosen, generate=generate, progress=True)
    try:
        generator = load_generator(checkpoint or default_checkpoint(), dtype=resolve_dtype(dtype, "cpu"))
        measured = report.measure(generator, data, wanted)
    except (CheckpointError, FileNotFoundError, ValueError) as error:
        output.fail(str(error), EXIT_USAGE)
    except ModuleNotFoundError as error:
        output.fail(f"{error.name} is missing: {EXTRA}", EXIT_USAGE)
    if out is not None:
        out.write_text(json.dumps(measured, indent=2) + "\n")
    output.show(measured, "" if as_json else report.table(measured))


@evaluation.command(name="all")
def run_all(
    tasks: Annotated[list[str] | None, typer.Argument(metavar="TASK", help="Tasks to run; all by default.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, gone on with if it is there; runs/evaluation-CHECKPOINT.")
    ] = None,
    checkpoint: CheckpointOption = None,
    base_model: Annotated[str | None, typer.Option(help="Folder or hub id, if not as the checkpoint says.")] = None,
    data: DataOption = DEFAULT_DATA,
    limit: Annotated[int, typer.Option(min=1, help="Documents of each setting.")] = 8,
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop near this time: tasks share it.")] = None,
    tuned: Annotated[int, typer.Option(min=0, help="Documents that LoRAs are fine-tuned on; slow.")] = 2,
    split: Annotated[str, typer.Option(help="dev or test.")] = "test",
    seed: Annotated[int, typer.Option(help="Chooses documents, distractors and demonstrations.")] = 0,
    lengths: Annotated[str, typer.Option(help="Tokens of documents.")] = "512,1024,2048,4096,8192,16384,32768",
    shots: Annotated[str, typer.Option(help="Demonstrations.")] = "1,2,4,8,16",
    depths: Annotated[str, typer.Option(help="Of needles, percent.")] = "0,25,50,75,100",
    questions: Annotated[int, typer.Option(min=1, help="About one document, at most.")] = 4,
    source: Annotated[list[str] | None, typer.Option(help="TASK=SOURCE or TASK=KIND:PATH; may be repeated.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda, in process.")] = "cpu",
    dtype: DtypeOption = "auto",
    url: Annotated[
        str | None, typer.Option(help="Answers from the service there: what generates, not what scores.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write the Markdown report here, its plots beside it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """The paper's three uses with the baselines, as tables and plots. Ended early, it goes on when started again.

    Example: genadapter eval all --limit 4 --out runs/eval
    """
    from generator.base_model import BaseModelNotFound
    from generator.checkpoint import CheckpointError, default_checkpoint
    from generator.evaluation.harness import Plan
    from generator.evaluation.served import ServiceError
    from generator.evaluation.tasks import TASKS

    output = Output(as_json)
    chosen = tuple(tasks) if tasks else tuple(TASKS)
    given = dict(pair.partition("=")[::2] for pair in source or [])
    if unknown := sorted({*chosen, *given} - set(TASKS)):
        output.fail(f"{', '.join(unknown)}: not among the tasks {', '.join(TASKS)}", EXIT_USAGE)
    try:
        plan = Plan(
            tasks=chosen,
            limit=limit,
            minutes=minutes,
            tuned=tuned,
            seed=seed,
            split=split,
            lengths=_numbers(lengths),
            shots=_numbers(shots),
            depths=_numbers(depths),
            questions=questions,
            sources=given,
        )
        engine, about = _engine(str(checkpoint or default_checkpoint()), base_model, (device, dtype), url)
        path = _run(engine, about, plan, data, out or Path("runs") / f"evaluation-{about['checkpoint'][:12]}")
    except (CheckpointError, BaseModelNotFound, FileNotFoundError, ValueError, ServiceError) as error:
        output.fail(str(error), EXIT_USAGE)
    except ModuleNotFoundError as error:
        output.fail(f"{error.name} is missing: {EXTRA}", EXIT_USAGE)
    if report is not None:
        _publish(path, report)
    rows = json.loads((path.parent / "results.json").read_text(encoding="utf-8"))["results"]
    output.show({"report": str(report or path), "results": rows}, str(report or path))


def _numbers(value: str) -> tuple[int, ...]:
    """Raises ValueError for anything but positive whole numbers (a depth may be 0) with commas between them."""
    try:
        found = tuple(sorted({int(part) for part in value.split(",")}))
    except ValueError:
        raise ValueError(f"{value!r} is not a list of whole numbers with commas") from None
    if found[0] < 0:
        raise ValueError(f"{value!r} holds a negative number")
    return found


def _engine(
    checkpoint: str, base_model: str | None, place: tuple[str, str], url: str | None
) -> tuple[Engine, dict[str, Any]]:
    """place: device and dtype, in process."""
    from generator.checkpoint import fingerprint_generator, resolve_checkpoint

    about: dict[str, Any] = {"checkpoint": fingerprint_generator(resolve_checkpoint(checkpoint, base_model))}
    engine: Engine
    if url:
        from generator.evaluation.served import Served

        engine = Served.at(url, checkpoint)
    else:
        from generator.evaluation.engines import InProcess
        from generator.generator import load_generator, resolve_dtype

        engine = InProcess(load_generator(checkpoint, base_model, place[0], resolve_dtype(place[1], place[0])))
    name = Path(base_model or engine.config.base_model).name
    return engine, about | {
        "base_model": name,
        "answers": "by a service" if url else f"in process ({', '.join(place)})",
    }


def _run(engine: Engine, about: dict[str, Any], plan: Plan, data: Path, out: Path) -> Path:
    from generator.evaluation.harness import Harness
    from generator.evaluation.results import summarize
    from generator.evaluation.write import write

    harness = Harness(engine, plan, data, out, about)
    records = harness.run(progress=sys.stderr.isatty())
    say = f"Made by `genadapter {shlex.join(sys.argv[1:])}`."
    return write(out, harness.configuration, summarize(records, plan.seed), records, say)


def _publish(path: Path, report: Path) -> None:
    """The report and its plots, in a folder of the report's name beside it."""
    pictures = report.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8")
    for picture in sorted(path.parent.glob("*.png")):
        shutil.copy(picture, pictures / picture.name)
        text = text.replace(f"({picture.name})", f"({pictures.name}/{picture.name})")
    report.write_text(text, encoding="utf-8")
