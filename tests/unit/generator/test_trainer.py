"""A whole run: resumable to the step, with everything that made the checkpoint beside it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from generator import load_generator
from generator.config import ConfigError
from generator.training.release import release
from generator.training.settings import (
    DataSettings,
    GeneratorSettings,
    OptimizerSettings,
    RunSettings,
    TrainingSettings,
)
from generator.training.trainer import Trainer
from service.cli import app

WORDS = [f"w{i}" for i in range(58)]


@pytest.fixture
def settings(tiny_base: Callable[[str], Path], tmp_path: Path) -> TrainingSettings:
    """A run of four steps on made-up passages, with a tokenizer of 64 words."""
    base = tmp_path / "base"
    shutil.copytree(tiny_base("llama"), base)
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "</s>", "<|endoftext|>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(base)
    data = tmp_path / "data"
    data.mkdir()
    with (data / "qa-squad.jsonl").open("w") as file:
        for i in range(130):
            text = " ".join(random.Random(i).choices(WORDS, k=30))
            record = {"title": f"t{i}", "context": text, "question": "w1 w2", "answers": [text.split()[3]]}
            file.write(json.dumps({**record, "split": "dev" if i % 10 == 0 else "train"}) + "\n")
    generator = GeneratorSettings(
        str(base), (1, 2), r1=12, r2=10, max_rank=6, alpha=5.0, key_shift=1, value_source="embedding", window=32
    )
    return TrainingSettings(
        replace(generator, initialization="random", strategy="parallel"),
        DataSettings(str(data), {"qa-squad": 1.0}, length=(5, 60), passages=3, questions=1),
        optimizer=OptimizerSettings(steps=4, warmup=1),
        run=RunSettings(save_every=2, evaluate_every=4, evaluation_passages=8, threads=1),
    )


@pytest.mark.parametrize("choice", [{}, {"average": 0.5}, {"kind": "muon"}], ids=str)
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(
    settings: TrainingSettings, tmp_path: Path, choice: dict[str, Any]
) -> None:
    settings = replace(settings, optimizer=replace(settings.optimizer, **choice))
    Trainer(settings, tmp_path / "whole").train()
    cut = Trainer(settings, tmp_path / "cut")
    save = cut.save

    def save_and_die() -> None:
        save()
        raise KeyboardInterrupt

    cut.save = save_and_die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    again = Trainer(settings, tmp_path / "cut")
    assert again.step == 2
    again.train()
    whole, resumed = (load_generator(tmp_path / name / "checkpoint") for name in ("whole", "cut"))
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    saved = json.loads((tmp_path / "cut" / "settings.json").read_text())
    assert saved["data_fingerprints"].keys() == {"qa-squad"}
    records = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    # Measured before the first step and after the last.
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4, 4]
    assert "knowledge_recovered" in records[-1]["held_out"]


def test_a_run_goes_on_from_another_ones_release(settings: TrainingSettings, tmp_path: Path) -> None:
    first = Trainer(replace(settings, optimizer=replace(settings.optimizer, steps=2)), tmp_path / "first")
    first.train()
    release(tmp_path / "first", tmp_path / "given")
    start = replace(settings.generator, initialization=str(tmp_path / "given"))
    second = Trainer(replace(settings, generator=start), tmp_path / "second")
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(one.half().float(), other, rtol=0, atol=0)
    second.train()
    release(tmp_path / "second", tmp_path / "given again")
    record = json.loads((tmp_path / "given again" / "training.json").read_text())
    assert (record["steps"], record["continued_from"]["steps"]) == (4, 2)
    assert record["settings"]["generator"]["initialization"] == "given", "no path of the machine"
    assert "/" not in record["settings"]["data"]["folder"]
    with pytest.raises(ConfigError, match="initialization"):
        Trainer(replace(settings, generator=replace(start, alpha=7.0)), tmp_path / "third")


def test_a_run_goes_on_with_more_targets(settings: TrainingSettings, tmp_path: Path) -> None:
    """Those that the checkpoint has keep their weights; the others start in closed form, at their share of its output."""
    wanted = settings.generator
    first = Trainer(replace(settings, optimizer=replace(settings.optimizer, steps=2)), tmp_path / "first")
    first.train()
    more = replace(wanted, layers=(0, 2), initialization=str(tmp_path / "first" / "checkpoint"), added_scale=0.25)
    grown = Trainer(replace(settings, generator=more), tmp_path / "grown").network.generators
    closed = Trainer(
        replace(settings, generator=replace(wanted, layers=(0, 2), initialization="associative")), tmp_path / "closed"
    )
    for one, other in zip(grown[1:], first.network.generators, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(grown[0].A1, closed.network.generators[0].A1)
    torch.testing.assert_close(grown[0].B, 0.25 * closed.network.generators[0].B)
    fewer = replace(more, layers=(2, 2))
    with pytest.raises(ConfigError, match="initialization"):
        Trainer(replace(settings, generator=fewer), tmp_path / "fewer")


def test_the_checkpoint_is_the_moving_average_of_the_weights(settings: TrainingSettings, tmp_path: Path) -> None:
    trainer = Trainer(replace(settings, optimizer=replace(settings.optimizer, average=0.5)), tmp_path / "run")
    seen = []
    update = trainer._update

    def update_and_look(*args: Any) -> Any:
        done = update(*args)
        seen.append(trainer.network.generators[0].B.detach().clone())
        return done

    trainer._update = update_and_look  # type: ignore[method-assign]
    trainer.train()
    expected = seen[0]
    for b in seen[1:]:
        expected = 0.5 * expected + 0.5 * b
    given = load_generator(tmp_path / "run" / "checkpoint").network.generators[0].B
    torch.testing.assert_close(given, expected)
    assert not torch.equal(given, seen[-1])


def test_an_unknown_precision_is_named(settings: TrainingSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dtype"):
        Trainer(replace(settings, run=replace(settings.run, dtype="float8")), tmp_path / "run")


def test_a_bfloat16_base_trains_a_float32_network(settings: TrainingSettings, tmp_path: Path) -> None:
    trainer = Trainer(replace(settings, run=replace(settings.run, dtype="bfloat16")), tmp_path / "run")
    trainer.train()
    assert {p.dtype for p in trainer.network.parameters()} == {torch.float32}
    assert {p.dtype for p in trainer.base.parameters()} == {torch.bfloat16}


def test_the_command_prints_one_json_object(
    settings: TrainingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").touch()
    monkeypatch.setattr(TrainingSettings, "read", lambda path: settings)
    words = ["train", str(tmp_path / "mine.toml"), "--folder", str(tmp_path / "run"), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert (made["steps"], made["checkpoint"]) == (4, str(tmp_path / "run" / "checkpoint"))
    assert made["held_out"] == json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["held_out"]
    load_generator(made["checkpoint"])
    monkeypatch.setattr(TrainingSettings, "read", lambda path: replace(settings, run=replace(settings.run, dtype="x")))
    failed = CliRunner().invoke(app, [*words[:2], "--folder", str(tmp_path / "other"), "--json"])
    assert failed.exit_code == 2
    assert "dtype" in json.loads(failed.stdout)["error"]["message"]
