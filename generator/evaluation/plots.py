"""One picture a task: its first metric by setting, a line a method; needles as maps of length and depth."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from generator.evaluation.tasks import CLOSED, OTHER, OWN, PROMPT, TASKS

Row = dict[str, Any]
_STYLES = {CLOSED: ":", OTHER: "--"}


def draw(folder: Path, rows: list[Row]) -> dict[str, str]:
    """Writes TASK.png where a task has more than one setting; task -> file name."""
    import matplotlib

    matplotlib.use("Agg")
    drawn = {}
    for task, found in groupby(rows, key=lambda row: row["task"]):
        several = list(found)
        if len({row["setting"] for row in several}) > 1:
            figure = _needles(several) if task == "needles" else _lines(several)
            drawn[task] = f"{task}.png"
            figure.savefig(folder / drawn[task], dpi=110)
    return drawn


def _value(row: Row) -> float:
    name = next(name for name in TASKS[row["task"]].metrics if name in row["metrics"])
    return float(row["metrics"][name]["mean"])


def _lines(rows: list[Row]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes: Any = figure.subplots()
    for method in TASKS[rows[0]["task"]].methods:
        points = [(float(row["setting"]), _value(row)) for row in rows if row["method"] == method]
        if points:
            axes.plot(*zip(*points, strict=True), _STYLES.get(method, "-"), marker="o", label=method)
    axes.set_xscale("log", base=2)
    settings = sorted({float(row["setting"]) for row in rows})
    axes.set_xticks(settings, [f"{setting:g}" for setting in settings])
    if "perplexity" in TASKS[rows[0]["task"]].metrics:
        axes.set_yscale("log")
    axes.set_ylabel(TASKS[rows[0]["task"]].metrics[0])
    axes.set_title(TASKS[rows[0]["task"]].title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _needles(rows: list[Row]) -> Any:
    from matplotlib.figure import Figure

    methods = [method for method in (PROMPT, OWN) if any(row["method"] == method for row in rows)]
    figure = Figure(figsize=(4 * len(methods) + 1, 3.5), layout="constrained")
    for axes, method in zip(figure.subplots(1, len(methods), squeeze=False)[0], methods, strict=True):
        cells = {_place(row["setting"]): _value(row) for row in rows if row["method"] == method}
        lengths, depths = (sorted({place[axis] for place in cells}) for axis in (0, 1))
        grid = [[cells.get((length, depth), float("nan")) for length in lengths] for depth in depths]
        axes.imshow(grid, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
        axes.set_yticks(range(len(depths)), [f"{depth} %" for depth in depths])
        axes.set_title(f"{method}: share found", fontsize=10)
    return figure


def _place(setting: str) -> tuple[int, int]:
    """ "512 at 25 %" -> (512, 25)."""
    length, _, depth, _ = setting.split()
    return int(length), int(depth)
