"""Every setting, its default and its bounds. Read from GENADAPTER_* environment variables and a `.env` file."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ENV_PREFIX = "GENADAPTER_"
Role = Literal["contextualize", "generate"]
MIB = 1024**2
# Read by the command line client, not by the service: no reason for a warning.
CLIENT_VARIABLES = frozenset({"URL", "API_KEY"})
DEFAULT_URL = "http://127.0.0.1:8000"  # where a service with defaults is found
# Handed by `serve` to its engine child, which shares the environment's prefix.
ENGINE_CHILD_VARIABLES = frozenset({"ADAPTER_CACHE", "ADAPTER_CACHE_BYTES", "SWEEP_SECONDS"})

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)")
_UNIT_SECONDS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class SettingsError(Exception):
    """A setting that makes no sense; the message is one line that names it and says what to write instead."""


def _duration(value: object) -> object:
    """`90`, `90s`, `15m`, `12h`, `30d` beside what pydantic reads by itself (ISO 8601)."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip().lower())):
        return timedelta(seconds=float(match[1]) * _UNIT_SECONDS[match[2]])
    return value


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("a duration above zero is needed, such as 30s, 15m, 12h or 7d")
    return value


def _roles(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_positive)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=".env",
        extra="ignore",
        env_ignore_empty=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    # What is served
    base_model: str = Field(
        "SmolLM2-135M-Instruct",
        min_length=1,
        description="Hugging Face folder, hub id or packaged name; else as in GENERATOR",
    )
    served_model_name: str | None = Field(
        None, description="The base model's name in the API; else the last part of BASE_MODEL"
    )
    generator: Path | None = Field(
        None, description="Checkpoint folder, or the name of a shipped one; the default when unset"
    )
    roles: Annotated[frozenset[Role], NoDecode, BeforeValidator(_roles)] = frozenset({"contextualize", "generate"})
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="Where the generator runs")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of the generator. auto: bfloat16 on GPUs and on CPUs with instructions for it, else float32",
    )

    # Where it listens, and for whom
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_keys_file: Path | None = None
    allow_anyone_to_use_this_service: bool = Field(
        False, description="Serve other machines without keys: whoever reaches the port sees and uses every adapter"
    )

    # The parts it leans on; unset means embedded
    redis_url: SecretStr | None = None
    redis_timeout: Duration = timedelta(seconds=2)
    redis_connections: int = Field(64, ge=1, le=10_000)
    engine_url: str | None = Field(None, pattern=r"^https?://")
    engine_api_key: SecretStr | None = None
    engine_args: str = Field("", description="Passed to vLLM's server as they are")
    engine_start_timeout: Duration = timedelta(minutes=10)
    max_loras: int = Field(32, ge=1, le=1024, description="Distinct adapters in one step of the engine")
    max_cpu_loras: int = Field(64, ge=1, le=100_000, description="Adapters that the engine keeps in host memory")
    max_model_len: int | None = Field(None, ge=16, description="Longest prompt plus answer; else as in the base model")
    kv_cache_gib: float = Field(1, gt=0, description="Key/value cache of the embedded CPU engine")
    data_dir: Path | None = Field(None, description="Where the embedded store keeps its data")

    # Limits
    default_ttl: Duration = timedelta(days=7)
    max_ttl: Duration = timedelta(days=365)
    state_ttl: Duration = timedelta(days=1)  # of what appending needs; never longer than its adapter's
    max_body_bytes: ByteSize = Field(ByteSize(32 * MIB), ge=1024)
    max_files: int = Field(16, ge=1, le=1000)
    max_requests: int = Field(2048, ge=1, description="Requests of all kinds that run at once")
    max_buffered_bytes: ByteSize = Field(
        ByteSize(1024 * MIB), ge=MIB, description="Of the bodies of all requests that run at once"
    )
    max_adapters: int = Field(100_000, ge=1, description="Live adapters per tenant")
    max_adapter_bytes: ByteSize = Field(
        ByteSize(64 * 1024 * MIB), ge=1, description="Of a tenant's live adapters together, in the store"
    )
    max_document_tokens: int = Field(32_768, ge=1)
    max_queue: int = Field(64, ge=1, description="Documents that wait for the generator before new ones are refused")
    max_batch_tokens: int = Field(
        8_192, ge=1, description="Documents share a pass up to so many tokens (a CPU reads one at a time)"
    )
    max_completion_tokens: int = Field(32_768, ge=1)
    # The engine compiles them one after the other; a megabyte takes it minutes.
    max_grammar_bytes: ByteSize = Field(
        ByteSize(16 * 1024), ge=0, description="Of each schema, grammar or list of tools; 0: none is taken"
    )
    max_in_flight: int = Field(512, ge=1, description="Completions that run at once")
    parse_timeout: Duration = timedelta(seconds=30)
    parse_memory_bytes: ByteSize = Field(ByteSize(1024 * MIB), ge=256 * MIB)
    parse_workers: int = Field(2, ge=1, le=64)
    max_unpacked_bytes: ByteSize = Field(ByteSize(256 * MIB), ge=MIB, description="Of a Word file, which is a zip")
    contextualize_deadline: Duration = timedelta(minutes=5)
    generate_deadline: Duration = timedelta(minutes=10)
    shutdown_grace: Duration = timedelta(seconds=30)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    audit_log: Path | None = Field(None, description="File of the audit log; standard error when unset")
    audit_log_bytes: ByteSize = Field(ByteSize(64 * MIB), ge=64 * 1024, description="Size at which it is rotated")

    @model_validator(mode="before")
    @classmethod
    def _base_model_of_generator(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("generator") and not data.get("base_model"):
            from generator.checkpoint import CheckpointError, read_config, resolve_checkpoint

            try:
                data["base_model"] = read_config(resolve_checkpoint(data["generator"])).base_model
            except CheckpointError as error:
                raise ValueError(f"GENERATOR: {error}") from None
        return data

    @model_validator(mode="after")
    def _together(self) -> Self:
        if not self.roles:
            raise ValueError("ROLES is empty: write contextualize, generate or both, separated by a comma")
        if self.default_ttl > self.max_ttl:
            raise ValueError("DEFAULT_TTL is longer than MAX_TTL")
        if self.max_buffered_bytes < self.max_body_bytes:
            raise ValueError("MAX_BUFFERED_BYTES must be at least MAX_BODY_BYTES")
        if self.max_cpu_loras < self.max_loras:
            raise ValueError("MAX_CPU_LORAS must be at least MAX_LORAS")
        if not (self.is_loopback or self.api_keys_file or self.allow_anyone_to_use_this_service):
            raise ValueError(
                f"HOST {self.host} is reachable from other machines, and there is no GENADAPTER_API_KEYS_FILE: "
                "set one, listen on 127.0.0.1, or set GENADAPTER_ALLOW_ANYONE_TO_USE_THIS_SERVICE=true"
            )
        try:
            shlex.split(self.engine_args)
        except ValueError as error:
            raise ValueError(f"ENGINE_ARGS cannot be split into arguments: {error}") from None
        return self

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def model_name(self) -> str:
        """The name under which clients and the engine know the base model."""
        return self.served_model_name or self.base_model.rstrip("/").rsplit("/", 1)[-1]

    @property
    def engine_arguments(self) -> list[str]:
        return shlex.split(self.engine_args)

    @property
    def data_folder(self) -> Path:
        data_home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        return self.data_dir or Path(data_home) / "genadapter"


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; raises SettingsError with one line."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("; ".join(_in_words(item) for item in error.errors())) from None


def _in_words(item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{ENV_PREFIX}{str(item['loc'][0]).upper()}: {message}" if item["loc"] else ENV_PREFIX + message


def unknown_variables(environ: dict[str, str] | None = None) -> list[str]:
    """GENADAPTER_* variables that no setting reads: most often a slip of the pen."""
    known = {name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES | ENGINE_CHILD_VARIABLES
    names = os.environ if environ is None else environ
    return sorted(
        name
        for name in names
        if name.upper().startswith(ENV_PREFIX) and name.upper().removeprefix(ENV_PREFIX) not in known
    )
