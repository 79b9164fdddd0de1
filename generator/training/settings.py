"""A training run's configuration: one TOML file with the tables [generator], [data], [objectives], [optimizer], [run]."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from generator.config import ConfigError, GeneratorConfig, TargetModule
from generator.encode import decoder_layers


@dataclass(frozen=True)
class GeneratorSettings:
    base_model: str
    layers: tuple[int, int]  # first and last adapted layer
    modules: tuple[str, ...] = ("o_proj",)
    r1: int = 1024
    r2: int = 1024
    max_rank: int = 128
    alpha: float = 64.0
    norm: str = "svd"
    key_shift: int = 0
    value_source: str = "state"
    strategy: str = "concat"
    window: int = 1024
    prefix_ids: tuple[int, ...] = ()
    initialization: str = "random"  # "associative", or another run's checkpoint: a folder or a shipped name
    # Of the closed-form output, for targets that the checkpoint named by `initialization` does not have.
    added_scale: float = 0.2

    def to_config(self, base: Any, base_fingerprint: str) -> GeneratorConfig:
        """The network's configuration for this base model. Raises `ConfigError` when a layer has no such module."""
        targets = []
        names = {id(module): name for name, module in base.named_modules()}
        layers = decoder_layers(base)
        for index in range(self.layers[0], self.layers[1] + 1):
            if index >= len(layers):
                raise ConfigError(f"layers: the base model has {len(layers)} layers, no layer {index}")
            found = [m for n, m in layers[index].named_modules() if n.rsplit(".", 1)[-1] in self.modules]
            if len(found) != len(self.modules):
                raise ConfigError(f"modules: layer {index} does not have every one of {', '.join(self.modules)}")
            targets += [TargetModule(names[id(m)], index, m.weight.shape[1], m.weight.shape[0]) for m in found]
        same = (
            "base_model",
            "r1",
            "r2",
            "max_rank",
            "alpha",
            "norm",
            "key_shift",
            "value_source",
            "strategy",
            "window",
        )
        return GeneratorConfig(
            hidden_size=base.config.get_text_config().hidden_size,
            targets=tuple(targets),
            base_fingerprint=base_fingerprint,
            prefix_ids=self.prefix_ids,
            **{name: getattr(self, name) for name in same},
        )


@dataclass(frozen=True)
class DataSettings:
    folder: str
    sources: dict[str, float]  # file: its share of the passages
    held_out: tuple[str, ...] = ("qa-squad", "qa-nq-qed")  # sources whose dev split is measured while it runs
    length: tuple[int, int] = (60, 360)  # tokens of a passage
    passages: int = 8  # in one step
    grouping: tuple[int, ...] = (1, 1, 1, 2, 4)  # how many passages make one document, drawn from these
    questions: int = 2  # about each passage of a document
    unrelated_questions: int = 1  # about other documents, under each document's adapter
    answer_tokens: int = 24  # of an answer, at most


@dataclass(frozen=True)
class ObjectiveSettings:
    """Weights; 0 leaves an objective out."""

    answers: float = 1.0
    reconstruction: float = 0.2
    completion: float = 1.0
    completion_share: float = (
        0.7  # of the divergence from the frozen model with the text before it; the rest: next-token loss
    )
    unrelated_text: float = 2.0
    unrelated_question: float = 1.0
    distillation: float = 0.0
    top_k: int = 64  # of the teacher's tokens that distillation compares
    span: int = 64  # tokens scored by the objectives on running text


@dataclass(frozen=True)
class OptimizerSettings:
    kind: str = "adamw"  # or "muon": an orthogonalized step for every matrix, AdamW for the rest
    # Of each weight's root mean square: Adam moves every entry by the rate, and the closed-form start's weights differ in size
    # by a factor of 25 (one rate for all of them erased A3 within twenty steps).
    rate: float = 1e-2
    gain_rate: float = 1e-3
    warmup: int = 20
    steps: int = 1000
    floor: float = 0.1  # of the rate, at the last step
    clip: float = 1.0
    # Decay of the moving average of the weights, which is what is measured and saved as the checkpoint; 0: the weights
    # of the last step.
    average: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)


@dataclass(frozen=True)
class RunSettings:
    seed: int = 0
    device: str = "cpu"  # or "cuda", or "auto": a GPU where there is one
    dtype: str = "float32"  # of the frozen base model; the network and all sums stay in float32
    gradient_checkpointing: bool = False  # the upper layers twice, instead of their activations in memory
    threads: int = 2
    save_every: int = 20
    evaluate_every: int = 100
    evaluation_passages: int = 24


@dataclass(frozen=True)
class TrainingSettings:
    generator: GeneratorSettings
    data: DataSettings
    objectives: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    run: RunSettings = field(default_factory=RunSettings)

    @classmethod
    def read(cls, path: Path) -> TrainingSettings:
        """Raises `ConfigError` naming what is wrong."""
        try:
            tables = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        kinds: dict[str, type] = {
            "generator": GeneratorSettings,
            "data": DataSettings,
            "objectives": ObjectiveSettings,
            "optimizer": OptimizerSettings,
            "run": RunSettings,
        }
        if unknown := set(tables) - set(kinds):
            raise ConfigError(f"{path}: unknown tables {', '.join(sorted(unknown))}")
        return cls(**{name: _table(kind, name, tables.get(name, {})) for name, kind in kinds.items()})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _table(kind: type, name: str, values: dict[str, Any]) -> Any:
    if unknown := set(values) - {f.name for f in fields(kind)}:
        raise ConfigError(f"[{name}]: unknown keys {', '.join(sorted(unknown))}")
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except TypeError as error:
        raise ConfigError(f"[{name}]: {error}") from error
