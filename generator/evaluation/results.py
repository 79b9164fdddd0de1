"""Records -> figures: for each task, setting and method the metrics with bootstrap intervals over groups, and the costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from generator.evaluation.statistics import Array, Figure, bootstrap, mean_of
from generator.evaluation.tasks import TASKS, Task

Record = Mapping[str, Any]
Parts = dict[str, list[tuple[float, float]]]


def summarize(records: Iterable[Record], seed: int = 0) -> list[dict[str, Any]]:
    """One row for each task, setting and method, in the order of tasks, settings as they came, methods."""
    cells: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        cells[record["task"], record["setting"], record["method"]].append(record)
    rows = [_row(TASKS[task], setting, method, found, seed) for (task, setting, method), found in cells.items()]
    tasks = list(TASKS)
    return sorted(rows, key=lambda r: (tasks.index(r["task"]), _order(r["setting"]), _place(r)))


def _order(setting: str) -> tuple[float, ...]:
    """By the numbers in it: "512" before "4096", "512 at 25 %" before "512 at 50 %"."""
    return tuple(float(word) for word in setting.split() if word.isdigit())


def _place(row: Mapping[str, Any]) -> int:
    return TASKS[row["task"]].methods.index(row["method"])


def _row(task: Task, setting: str, method: str, found: list[Record], seed: int) -> dict[str, Any]:
    parts: Parts = defaultdict(list)
    for record in found:
        _count(parts, record)
    wanted = {
        metric: figure for metric in task.metrics if (figure := _FIGURES.get(metric)) and _source(metric) in parts
    }
    metrics = bootstrap(parts, [record["group"] for record in found], wanted, seed)
    if "macro F1" in task.metrics:
        score = _macro_f1(found)
        metrics["macro F1"] = {"mean": score, "low": score, "high": score}
    return {
        "task": task.name,
        "setting": setting,
        "method": method,
        "documents": len(found),
        "groups": len({record["group"] for record in found}),
        "questions": sum(len(record["replies"]) for record in found),
        "metrics": metrics,
        "document": _means([record["document"] for record in found]),
        "question": _means([record["question"] for record in found]),
    }


def _count(parts: Parts, record: Record) -> None:
    """(sum, count) of one document for every metric that its replies have."""
    replies = record["replies"]
    for name in ("F1", "exact", "found"):
        if any(name in reply for reply in replies):
            parts[name].append((sum(reply[name] for reply in replies), len(replies)))
    if any("chosen" in reply for reply in replies):
        parts["accuracy"].append((sum(reply["chosen"] == reply["gold"] for reply in replies), len(replies)))
    if any("loss" in reply for reply in replies):
        scored = [reply for reply in replies if "loss" in reply]
        parts["loss"].append((sum(r["loss"] for r in scored), sum(r["tokens"] for r in scored)))


def _mean(name: str) -> Figure:
    return lambda totals: mean_of(totals[name])


def _perplexity(totals: Mapping[Any, Array]) -> Array:
    result: Array = np.exp(mean_of(totals["loss"]))
    return result


_FIGURES: dict[str, Figure] = {name: _mean(name) for name in ("F1", "exact", "found", "accuracy", "loss")}
_FIGURES["perplexity"] = _perplexity


def _source(metric: str) -> str:
    return "loss" if metric == "perplexity" else metric


def _macro_f1(found: list[Record]) -> float:
    """F1 of each label that is a gold answer, averaged over labels, then over tasks (a record's group)."""
    by_task: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for record in found:
        by_task[record["group"]] += [(reply["chosen"], reply["gold"]) for reply in record["replies"]]
    scores = []
    for pairs in by_task.values():
        labels = sorted({gold for _, gold in pairs})
        scores.append(sum(_label_f1(pairs, label) for label in labels) / len(labels))
    return round(sum(scores) / len(scores), 4)


def _label_f1(pairs: list[tuple[str, str]], label: str) -> float:
    both = sum(chosen == gold == label for chosen, gold in pairs)
    either = sum(chosen == label for chosen, _ in pairs) + sum(gold == label for _, gold in pairs)
    return 2 * both / either if either else 0.0


def _means(costs: list[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(cost[name] for cost in costs) / len(costs) for name in costs[0]}
