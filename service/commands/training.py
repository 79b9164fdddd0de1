"""`genadapter train`, `bench` and `import-checkpoint`: the commands that work on generators rather than on adapters."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from service.commands.client import EXIT_USAGE, JsonOption, Output


def train(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="The run's configuration, a TOML file.", exists=True, dir_okay=False),
    ],
    folder: Annotated[Path | None, typer.Option(help="Where the run is kept: runs/NAME by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a generator. Started again with the same folder it goes on where it was.

    The folder gets the checkpoint (which GENADAPTER_GENERATOR takes), log.jsonl and plots. With --json, progress goes to
    standard error, and the last held-out losses (nats per token) to standard output.

    Example: genadapter train generator/training/configs/smollm2-135m-instruct.toml

    Example: genadapter train generator/training/configs/smollm2-135m-instruct.toml --folder runs/mine --json
    """
    from generator.config import ConfigError
    from generator.training.settings import TrainingSettings
    from generator.training.trainer import Trainer

    target = folder or Path("runs") / config.stem
    output = Output(as_json)
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            trainer = Trainer(TrainingSettings.read(config), target)
            trainer.train()
    except (ConfigError, FileNotFoundError) as error:
        output.fail(str(error), EXIT_USAGE)
    if trainer.workers.first:
        made = {"folder": str(target), "checkpoint": str(target / "checkpoint"), "steps": trainer.step}
        words = f"{trainer.step} steps; the checkpoint is {target / 'checkpoint'}"
        output.show(made | {"held_out": _last_held_out(target / "log.jsonl")}, words)


def _last_held_out(log: Path) -> dict[str, float]:
    """Losses by name, as the run's log has them."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    found: dict[str, float] = next(r["held_out"] for r in reversed(records) if "held_out" in r)
    return found


def import_checkpoint(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="adapter_config.json + adapter_model.safetensors.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The checkpoint's new folder.")],
    base_model: Annotated[str | None, typer.Option(help="Folder or hub id, if not as the checkpoint says.")] = None,
    strategy: Annotated[str, typer.Option(help="concat, parallel or sequential, as it was trained.")] = "concat",
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint of the method's reference implementation (peft_type FASTLORA) into one of ours.

    Example: genadapter import-checkpoint Generative-Adapter-Mistral-7B-Instruct-v0.2 mistral-generator
    """
    from generator.base_model import BaseModelNotFound
    from generator.checkpoint import CheckpointError
    from generator.fastlora import import_fastlora

    output = Output(as_json)
    if strategy not in ("concat", "parallel", "sequential"):
        output.fail(f"--strategy {strategy}: not one of concat, parallel, sequential", EXIT_USAGE)
    if not (source / "adapter_config.json").is_file():
        output.fail(f"{source} is no folder with an adapter_config.json", EXIT_USAGE)
    try:
        config = import_fastlora(source, target, base_model, strategy)  # type: ignore[arg-type]
    except (CheckpointError, BaseModelNotFound) as error:
        output.fail(str(error), EXIT_USAGE)
    made = {"folder": str(target), "modules": len(config.targets), "base_model": config.base_model, "rank": config.rank}
    words = f"{target}: {len(config.targets)} adapted modules of {config.base_model}, rank {config.rank}"
    output.show(made, words)


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Benchmarks to run. All by default.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="A running service; one is started otherwise.")] = None,
    engine_url: Annotated[str | None, typer.Option(help="The engine behind --url.")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Sizes for a GPU.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Only see that they run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the benchmarks of a source checkout: tables on the terminal, JSON and plots in bench/results.

    adapters, cold, contextualize, overhead, prompt, scale, startup; each is also a command: python -m bench.NAME --help.

    With --json the tables go to standard error, and what was measured to standard output.

    Example: genadapter bench prompt adapters

    Example: genadapter bench startup --quick --json
    """
    import importlib.util
    import subprocess

    output = Output(as_json)
    if importlib.util.find_spec("bench") is None:
        output.fail("the benchmarks are part of the source checkout, and are run there", EXIT_USAGE)
    from bench.__main__ import BENCHMARKS
    from bench.common import read

    if unknown := sorted(set(names or []) - set(BENCHMARKS)):
        output.fail(f"{', '.join(unknown)}: not among the benchmarks {', '.join(BENCHMARKS)}", EXIT_USAGE)
    options = {"--url": url, "--engine-url": engine_url}
    arguments = [part for name, value in options.items() if value for part in (name, value)]
    arguments += [name for name, wanted in (("--gpu", gpu), ("--quick", quick)) if wanted]
    command = [sys.executable, "-m", "bench", *(names or []), *arguments]
    code = subprocess.run(command, check=False, stdout=sys.stderr if as_json else None).returncode
    if code:
        output.fail("a benchmark failed, see above", code)
    if as_json:
        output.show({name: read(name) for name in names or BENCHMARKS}, "")
