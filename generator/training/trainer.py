"""The training loop: resumable to the step, held-out gaps while it runs, everything that made a checkpoint saved beside it."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from generator.base_model import fingerprint_base, resolve_base_model
from generator.checkpoint import load_network, resolve_checkpoint, save_checkpoint
from generator.config import ConfigError
from generator.encode import Encoder, expand_factors
from generator.evaluation.items import Text
from generator.evaluation.quality import Quality, held_out
from generator.factors import factorize
from generator.generator import load_base, load_tokenizer, resolve_dtype
from generator.model import GeneratorNetwork
from generator.training import associative, sources
from generator.training.data import Mixture, Passage, fingerprint
from generator.training.frozen import FrozenModel
from generator.training.journal import Journal
from generator.training.objectives import Prompts
from generator.training.optimizers import optimizers
from generator.training.parallel import Workers
from generator.training.release import CONTINUED_FILE, RECORD_FILE
from generator.training.settings import TrainingSettings
from generator.training.step import Step

# Text that the associative start is measured on: some 20,000 tokens.
_START_PASSAGES = 120


def _moving_average(network: GeneratorNetwork, decay: float) -> AveragedModel:
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]


class Trainer:
    """One run in one folder."""

    def __init__(self, settings: TrainingSettings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings.run.seed)
        self.workers = Workers.join(settings.run.device)
        self.device = self.workers.device
        if self.device == "cpu":
            torch.set_num_threads(settings.run.threads)
        try:
            dtype = resolve_dtype(settings.run.dtype, self.device)
        except ValueError as error:
            raise ConfigError(f"dtype: {error}") from None
        base_folder = resolve_base_model(settings.generator.base_model)
        self.base: Any = load_base(base_folder, self.device, dtype)
        tokenizer = load_tokenizer(base_folder)
        if tokenizer is None:
            raise ConfigError(f"base_model: {settings.generator.base_model} has no tokenizer")
        self.prompts = Prompts.of(tokenizer)
        self._load_data(Text(self.prompts.tokenize, lambda ids: str(tokenizer.decode(ids))))
        self.network = self._network(fingerprint_base(base_folder))
        # The logarithm of a scale for each target's output, with a rate of its own; folded into B after every step.
        self.gains = nn.Parameter(torch.zeros(len(self.network.config.targets), device=self.device))
        self.optimizers = optimizers(self.network, self.gains, settings.optimizer)
        decay = settings.optimizer.average
        self.average = _moving_average(self.network, decay) if decay else None
        self.step = 0
        self._resume()
        self.workers.same_start(self.network.parameters())
        self.frozen = FrozenModel(self.base, self.network.config, settings.run.gradient_checkpointing)
        self.journal = Journal(folder, settings.optimizer.steps, self.workers.first)
        scaling = self.network.config.scaling
        self.quality = Quality(self.base, self.prompts, self.held_out, scaling)

    def _load_data(self, text: Text) -> None:
        data, run = self.settings.data, self.settings.run

        def load(source: str, split: str) -> list[Passage]:
            return sources.load(source, Path(data.folder), split, text, data.length)

        passages = {source: load(source, "train") for source in data.sources}
        self.mixture = Mixture(passages, data.sources, run.seed)
        self.data_fingerprints = {source: fingerprint(rows) for source, rows in passages.items()}
        asked = [p for source in data.held_out if source in data.sources for p in load(source, "dev")]
        if len(asked) < 2:
            raise ConfigError("held_out: two passages at least, of one of the sources, are needed to measure with")
        self.held_out = held_out(asked, run.evaluation_passages)

    def _network(self, base_fingerprint: str) -> GeneratorNetwork:
        wanted = self.settings.generator
        network = GeneratorNetwork(wanted.to_config(self.base, base_fingerprint)).to(self.device)
        if (self.folder / "state.pt").exists() or wanted.initialization == "random":
            return network
        if wanted.initialization == "associative":
            self._start_in_closed_form(network)
        else:
            self._go_on_from(resolve_checkpoint(wanted.initialization), network)
        return network

    def _start_in_closed_form(self, network: GeneratorNetwork) -> None:
        passages = [passage for found in self.mixture.sources.values() for passage in found]
        sample = random.Random(1).sample(passages, min(len(passages), _START_PASSAGES))
        associative.initialize(network, self.base, [p.ids for p in sample])

    def _go_on_from(self, start: Path, network: GeneratorNetwork) -> None:
        """Another run's weights; targets that it did not have start in closed form, at `added_scale`. What made the
        weights is kept beside this run's own settings."""
        before, config = load_network(start), network.config
        given = dict(zip(before.config.targets, before.generators, strict=True))
        known = replace(before.config, base_model=config.base_model, targets=config.targets) == config
        if not known or not given.keys() <= set(config.targets):
            raise ConfigError(f"initialization: {start} has another configuration than [generator] says")
        if added := tuple(target for target in config.targets if target not in given):
            new = GeneratorNetwork(replace(config, targets=added)).to(self.device)
            self._start_in_closed_form(new)
            for target, module in zip(added, new.generators, strict=True):
                module.B.data.mul_(self.settings.generator.added_scale)
                given[target] = module
        for target, module in zip(config.targets, network.generators, strict=True):
            module.load_state_dict(given[target].state_dict())
        if self.workers.first and (start / RECORD_FILE).is_file():
            shutil.copy(start / RECORD_FILE, self.folder / CONTINUED_FILE)

    @property
    def result(self) -> GeneratorNetwork:
        """What the run has to give at this step: the weights, or their moving average."""
        if self.average is None:
            return self.network
        return cast("GeneratorNetwork", self.average.module)

    def _rate(self) -> float:
        """Share of the peak rate: a linear warm-up, then a cosine down to the floor."""
        settings = self.settings.optimizer
        if self.step < settings.warmup:
            return (self.step + 1) / settings.warmup
        progress = min(1.0, (self.step - settings.warmup) / max(1, settings.steps - settings.warmup))
        return settings.floor + (1 - settings.floor) * 0.5 * (1 + math.cos(math.pi * progress))

    def train(self) -> None:
        """Run to the last step."""
        step = Step(self.frozen, self.network, self.prompts, self.settings)
        run, workers = self.settings.run, self.workers
        with self.journal:
            if self.step == 0:
                self.evaluate()
            while self.step < self.settings.optimizer.steps:
                started = time.perf_counter()
                turn = self.step * workers.count + workers.rank  # the processes' passages are neighbours in one stream
                rng = random.Random(f"{run.seed}-{turn}-rows")
                means, norm = self._update(step, self.mixture.draw(turn, self.settings.data.passages), rng)
                self.step += 1
                self.journal.step(self.step, time.perf_counter() - started, norm, means)
                last = self.step == self.settings.optimizer.steps
                if workers.first and (last or self.step % run.save_every == 0):
                    self.save()
                if last or self.step % run.evaluate_every == 0:
                    self.evaluate()

    def _update(self, step: Step, passages: list[Passage], rng: random.Random) -> tuple[dict[str, float], float]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * self._rate()
            optimizer.zero_grad(set_to_none=True)
        loss, means = step(passages, self.gains, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        trained = [*self.network.parameters(), self.gains]
        self.workers.average_gradients(trained)
        norm = nn.utils.clip_grad_norm_(trained, self.settings.optimizer.clip).item()
        if math.isfinite(norm):  # else the step is skipped, and the log says so
            for optimizer in self.optimizers:
                optimizer.step()
            self._fold_gains()
            if self.average is not None:
                self.average.update_parameters(self.network)
        return means, norm

    @torch.no_grad()
    def _fold_gains(self) -> None:
        for module, gain in zip(self.network.generators, self.gains, strict=True):
            module.B.mul_(gain.exp())
        self.gains.zero_()

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """Held-out losses with the adapters as inference makes them; the first process measures, the others wait."""
        report = self._measure() if self.workers.first else {}
        self.workers.wait()
        return report

    def _measure(self) -> dict[str, float]:
        network = self.result.requires_grad_(False)
        encoder = Encoder(self.base, network, batch_tokens=1)
        config = network.config

        def adapter(ids: list[int]) -> dict[str, Any]:
            state = encoder.encode([ids], config.strategy)[0]
            return expand_factors(*factorize(state.s, config), network)

        report = self.quality.measure(adapter).report()
        self.network.requires_grad_(True)
        self.journal.held_out(self.step, report)
        return report

    def save(self) -> None:
        """Network, optimizer and step; what the run has to give as a checkpoint. Each replaced at once."""
        save_checkpoint(self.result, self.folder / "checkpoint")
        scratch = self.folder / "state.pt.new"
        state = {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "network": self.network.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        torch.save(state, scratch)
        scratch.rename(self.folder / "state.pt")

    def _resume(self) -> None:
        if self.workers.first:
            (self.folder / "settings.json").write_text(
                json.dumps({**self.settings.to_dict(), "data_fingerprints": self.data_fingerprints}, indent=2)
            )
        if not (self.folder / "state.pt").exists():
            return
        state = torch.load(self.folder / "state.pt", weights_only=True, map_location=self.device)
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step = state["step"]
