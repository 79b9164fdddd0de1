"""Figures -> `results.json`, `results.md` and plots."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from generator.evaluation import plots
from generator.evaluation.tasks import TASKS

_PERCENT = ("F1", "exact", "found", "accuracy", "macro F1")

Row = dict[str, Any]


def write(
    folder: Path, configuration: dict[str, Any], rows: list[Row], records: list[dict[str, Any]], say: str
) -> Path:
    """Everything into `folder`; the path of the Markdown report. say: the command and how far it came, for readers."""
    report = {**configuration, "results": rows, "records": records}
    (folder / "results.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    drawn = plots.draw(folder, rows)
    path = folder / "results.md"
    path.write_text(markdown(configuration, rows, drawn, say), encoding="utf-8")
    return path


def markdown(configuration: dict[str, Any], rows: list[Row], drawn: dict[str, str], say: str) -> str:
    """drawn: task -> file name of its plot."""
    lines = ["# Results", "", say, "", *_facts(configuration), ""]
    lines += [
        "What each figure means: [evaluation.md](evaluation.md). Ranges are 95 % bootstrap intervals over groups.",
        "",
    ]
    for task, found in groupby(rows, key=lambda row: row["task"]):
        several = list(found)
        lines += [f"## {TASKS[task].title}", "", *_table(several), ""]
        if task in drawn:
            lines += [f"![{TASKS[task].title}]({drawn[task]})", ""]
    return "\n".join([*lines, *_costs(rows), ""])


def _facts(configuration: dict[str, Any]) -> list[str]:
    fixed, versions, machine = (configuration[name] for name in ("fixed", "versions", "machine"))
    return [
        f"- Base model {fixed['base_model']}, generator {fixed['checkpoint'][:16]}, answers made {fixed['answers']}.",
        f"- Split {fixed['split']}, seed {fixed['seed']}; {machine['processors']} processors ({machine['machine']}).",
        "- " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".",
    ]


def _table(rows: list[Row]) -> list[str]:
    task = TASKS[rows[0]["task"]]
    metrics = [name for name in task.metrics if any(name in row["metrics"] for row in rows)]
    lines = [f"| | method | {' | '.join(map(_head, metrics))} | documents | questions |"]
    lines.append("|---|---|" + "---|" * (len(metrics) + 2))
    for row in rows:
        cells = [_cell(name, row["metrics"].get(name)) for name in metrics]
        counts = f"{row['documents']} | {row['questions']}"
        lines.append(f"| {row['setting']} | {row['method']} | {' | '.join(cells)} | {counts} |")
    return lines


def _head(metric: str) -> str:
    return f"{metric}, %" if metric in _PERCENT else metric


def _cell(metric: str, value: dict[str, float] | None) -> str:
    if value is None:
        return ""
    scale, digits = (100, 1) if metric in _PERCENT else (1, 3 if metric == "loss" else 2)
    mean, low, high = (f"{scale * value[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return mean if low == high == mean else f"{mean} ({low} .. {high})"


def _costs(rows: list[Row]) -> list[str]:
    lines = [
        "## Costs",
        "",
        "A document once, with what is stored; each question, with its memory. TFLOPs by formula, seconds as measured.",
    ]
    lines += [
        "",
        "| task | | method | document TFLOPs | seconds | numbers | MB | question TFLOPs | seconds | MB | prompt tokens |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in (row for row in rows if TASKS[row["task"]].costs):
        once, each = row["document"], row["question"]
        lines.append(
            f"| {row['task']} | {row['setting']} | {row['method']} | {once['flops'] / 1e12:.3f} | {once['seconds']:.2f} "
            f"| {once['numbers'] / 1e6:.2f} M | {once['bytes'] / 1e6:.2f} "
            f"| {each['flops'] / 1e12:.3f} | {each['seconds']:.2f} | {each['memory_bytes'] / 1e6:.2f} "
            f"| {each['prompt_tokens']:.0f} |"
        )
    return lines
