"""What a run tells while it goes on: `log.jsonl`, a progress bar (or lines, where there is no terminal), and `losses.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Training losses are drawn as the mean over so many steps.
_SMOOTHING = 20


class Journal:
    """Silent in every process but the first."""

    def __init__(self, folder: Path, steps: int, first: bool) -> None:
        self._folder, self._steps, self._first = folder, steps, first
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, disable=not (first and sys.stdout.isatty()))
        self._task = self._bar.add_task("training", total=steps)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, step: int, seconds: float, gradient: float, means: dict[str, float]) -> None:
        """`means`: each objective's loss per token."""
        shown = "  ".join(f"{name} {value:.2f}" for name, value in sorted(means.items()))
        self._bar.update(self._task, completed=step, description=shown)
        self._write({"step": step, "seconds": seconds, "gradient": gradient, **means})

    def held_out(self, step: int, report: dict[str, float]) -> None:
        self._write({"step": step, "held_out": {name: round(value, 4) for name, value in report.items()}})
        if self._first:
            draw(self._folder / "log.jsonl", self._folder / "losses.png")

    def _write(self, record: dict[str, Any]) -> None:
        if not self._first:
            return
        line = json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()})
        with (self._folder / "log.jsonl").open("a") as file:
            file.write(line + "\n")
        if self._bar.disable:
            print(line, flush=True)
        elif "held_out" in record:
            self._bar.console.print(line)


def draw(log: Path, picture: Path) -> None:
    """Losses by step, in training (left) and on held-out answers (right). Without matplotlib nothing is drawn."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [record for record in records if "held_out" not in record]
    if not steps:  # measured before the first step
        return
    figure = Figure(figsize=(11, 4), layout="constrained")
    training, held = figure.subplots(1, 2)
    for name in sorted({name for record in steps for name in record} - {"step", "seconds", "gradient"}):
        points = [(record["step"], record[name]) for record in steps if name in record]
        means = [sum(v for _, v in points[max(0, i - _SMOOTHING) : i + 1]) for i in range(len(points))]
        counts = [min(i, _SMOOTHING) + 1 for i in range(len(points))]
        training.plot([s for s, _ in points], [m / c for m, c in zip(means, counts, strict=True)], label=name)
    measured = [record for record in records if "held_out" in record]
    for condition in ("closed", "other", "prompt", "own"):
        values = [record["held_out"][f"answers/{condition}"] for record in measured]
        held.plot([record["step"] for record in measured], values, label=condition, marker="o")
    for axes, title in ((training, "training, nats per token"), (held, "held-out answers, nats per token")):
        axes.set(title=title, xlabel="step")
        axes.legend(fontsize="small")
    figure.savefig(picture, dpi=120)
