"""Runs tasks: every item with every method, one JSON line each. Started again with the same folder it goes on where it was."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from generator.evaluation import sources
from generator.evaluation.answers import exact_match, normalize, token_f1
from generator.evaluation.costs import BYTES_PER_NUMBER
from generator.evaluation.engines import Engine, Reply
from generator.evaluation.items import Asked, Item, Sizes
from generator.evaluation.methods import Methods, Prepared
from generator.evaluation.tasks import CONVERGED, TASKS, TUNED, Task

RECORDS, CONFIGURATION = "records.jsonl", "configuration.json"
_PACKAGES = ("genadapter", "torch", "transformers", "bm25s")


class AnotherRun(ValueError):
    """The folder holds records of another configuration."""


@dataclass(frozen=True)
class Plan:
    """What is run. `limit`, `minutes` and the names of tasks may differ when a run is gone on with; the rest may not."""

    tasks: tuple[str, ...] = tuple(TASKS)
    limit: int = 8  # items of each setting
    minutes: float | None = None  # for all tasks together; each gets its share
    tuned: int = 2  # documents that the fine-tuned LoRAs are made for
    seed: int = 0
    split: str = "test"
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384, 32768)
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    depths: tuple[int, ...] = (0, 25, 50, 75, 100)
    questions: int = 4
    sources: dict[str, str] = field(default_factory=dict)  # task -> source, where it is not the task's own

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.limit, self.seed, self.lengths, self.shots, self.depths, self.questions)


class Harness:
    """One run in one folder."""

    def __init__(self, engine: Engine, plan: Plan, data: Path, folder: Path, about: dict[str, Any]) -> None:
        """about: what else decides the figures (checkpoint, base model, how answers are made). Raises `AnotherRun`."""
        self.engine, self.plan, self.data, self.folder = engine, plan, data, folder
        self.methods = Methods(engine)
        folder.mkdir(parents=True, exist_ok=True)
        self.configuration = self._claim(about)
        self.records = self._read()
        self._done = {(r["task"], r["item"], r["method"]) for r in self.records}

    def _claim(self, about: dict[str, Any]) -> dict[str, Any]:
        fixed = {k: v for k, v in asdict(self.plan).items() if k not in ("tasks", "limit", "minutes", "tuned")}
        wanted = json.loads(json.dumps({**about, **fixed}))
        path = self.folder / CONFIGURATION
        if path.is_file():
            found = json.loads(path.read_text())
            differing = sorted(key for key in wanted if found.get("fixed", {}).get(key) != wanted[key])
            if differing:
                raise AnotherRun(f"{self.folder} holds a run with another {', '.join(differing)}: name another folder")
        machine = {"machine": platform.machine(), "python": platform.python_version(), "processors": _processors()}
        versions = {name: version(name) for name in _PACKAGES}
        made = {"fixed": wanted, "versions": versions, "machine": machine}
        path.write_text(json.dumps(made, indent=2) + "\n")
        return made

    def _read(self) -> list[dict[str, Any]]:
        """The records that are there; a last line that was cut off is dropped from the file too."""
        path = self.folder / RECORDS
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")
        whole, rest = lines[:-1], lines[-1]
        if rest:
            path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
        return [json.loads(line) for line in whole]

    def run(self, progress: bool = True) -> list[dict[str, Any]]:
        """All records, those of earlier starts included. Raises FileNotFoundError and ValueError of the loaders."""
        prepared = [(task, self._items(task)) for task in (TASKS[name] for name in self.plan.tasks)]
        prepared = [(task, items) for task, items in prepared if items]
        ends = time.monotonic() + 60 * self.plan.minutes if self.plan.minutes is not None else None
        with (self.folder / RECORDS).open("a", encoding="utf-8") as file, _Bar(progress) as bar:
            for position, (task, items) in enumerate(prepared):
                left = sum(later.share for later, _ in prepared[position:])
                now = time.monotonic()
                stop = None if ends is None else now + (ends - now) * task.share / left
                for record in self._run(task, items, stop, bar):
                    self.records.append(record)
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
                    file.flush()
        return self.records

    def _items(self, task: Task) -> list[Item]:
        source = self.plan.sources.get(task.name, task.source)
        found: Any
        if task.from_examples:
            found = sources.example_sets(source, self.data, self.plan.split, self.plan.seed)
        else:
            found = sources.documents(source, self.data, self.plan.split)
        items = task.items(found, self.plan.sizes, self.engine.text)
        return [item for item in items if all(asked.kind in self.engine.kinds for asked in item.asked)]

    def _run(self, task: Task, items: list[Item], stop: float | None, bar: _Bar) -> Iterator[dict[str, Any]]:
        bar.start(task.name, len(items))
        tuned = {item.id for item in [i for i in items if i.setting == items[0].setting][: self.plan.tuned]}
        for item in items:
            if stop is not None and time.monotonic() > stop:
                break
            for method in task.methods:
                if (task.name, item.id, method) in self._done or (
                    method in (TUNED, CONVERGED) and item.id not in tuned
                ):
                    continue
                prepared = self.methods.prepare(method, item)
                if prepared is not None:
                    yield self._record(task, item, method, prepared)
            bar.advance()

    def _record(self, task: Task, item: Item, method: str, prepared: Prepared) -> dict[str, Any]:
        replies = self.engine.ask(item.asked, prepared.contexts, prepared.handle, task.answer_tokens)
        return {
            "task": task.name,
            "item": item.id,
            "group": item.group,
            "setting": item.setting,
            "method": method,
            "replies": [_scored(reply, a) for reply, a in zip(replies, item.asked, strict=True)],
            "document": prepared.cost.to_json(),
            "question": self._question_cost(replies, prepared),
            **prepared.note,
        }

    def _question_cost(self, replies: list[Reply], prepared: Prepared) -> dict[str, float]:
        """Of one question, on average; each as if it were asked alone, its prompt read anew."""
        shape, count = self.engine.shape, len(replies)
        flops = memory = 0.0
        for reply in replies:
            prompt, made = reply.prompt_tokens, reply.made_tokens
            flops += shape.reading(prompt) + shape.reading(made, before=prompt) + shape.naming(max(1, made))
            flops += 2 * prepared.attached * (prompt + made)
            memory += BYTES_PER_NUMBER * (shape.cache_numbers(prompt + made) + prepared.attached)
        return {
            "flops": flops / count,
            "seconds": round(sum(reply.seconds for reply in replies) / count, 4),
            "memory_bytes": memory / count,
            "prompt_tokens": sum(reply.prompt_tokens for reply in replies) / count,
            "made_tokens": sum(reply.made_tokens for reply in replies) / count,
        }


def _scored(reply: Reply, asked: Asked) -> dict[str, Any]:
    gold = asked.answers
    if asked.kind == "raw":
        return {"chosen": reply.chosen, "gold": gold[0]}
    loss = {} if reply.loss is None else {"loss": round(reply.loss, 4), "tokens": reply.loss_tokens}
    if asked.kind != "chat":
        return loss
    found = any(normalize(answer) in normalize(reply.text) for answer in gold if normalize(answer))
    scores = {"F1": token_f1(reply.text, gold), "exact": exact_match(reply.text, gold), "found": float(found)}
    return {"answer": reply.text, "gold": gold, **scores, **loss}


def _processors() -> int:
    import os

    return os.cpu_count() or 1


class _Bar:
    """A progress bar on standard error, or nothing."""

    def __init__(self, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), disable=not shown)
        self._row = self.progress.add_task("", visible=False)

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def start(self, name: str, total: int) -> None:
        self._row = self.progress.add_task(name, total=total)

    def advance(self) -> None:
        self.progress.advance(self._row)
