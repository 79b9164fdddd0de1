"""What the images run as process 1: `start.py service [ARGUMENTS of genadapter]` or `start.py engine`.

Reads secrets from files (Docker and Kubernetes hand them over that way; an environment shows up in `docker inspect`),
switches tracing on when an OTLP endpoint is set, and becomes the process it starts: signals reach it unfiltered.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

ENGINE_PORT = 8001
# NAME_FILE names a file whose content becomes NAME.
SECRETS = ("GENADAPTER_REDIS_URL", "GENADAPTER_ENGINE_API_KEY", "VLLM_API_KEY")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# Spans only: Prometheus scrapes the metrics, and logs go to standard error. Probes and scrapes are no news.
TRACING = {
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS": "healthz,readyz,metrics",
    "OTEL_PYTHON_AIOHTTP_CLIENT_EXCLUDED_URLS": "/health$",
}


def read_secrets() -> None:
    for name in SECRETS:
        path = os.environ.pop(f"{name}_FILE", None)
        if path:
            os.environ[name] = Path(path).read_text().strip()


def traces_endpoint() -> str | None:
    """Where spans go: the first variable is a whole address, the second one lacks its path."""
    whole, base = (os.environ.get(name) for name in ENDPOINTS)
    return whole or (f"{base.rstrip('/')}/v1/traces" if base else None)


def service_command(arguments: list[str]) -> list[str]:
    program = ["python", str(Path(__file__).with_name("traced.py"))] if traces_endpoint() else ["genadapter"]
    return program + (arguments or ["serve"])


def engine_command() -> list[str]:
    """The command that `genadapter serve` would start as its child, open to the service's network."""
    from generator.base_model import resolve_base_model
    from generator.checkpoint import read_config
    from service import children
    from service.backend import checkpoint_folder
    from service.settings import load_settings

    settings = load_settings()
    if settings.redis_url is None:
        raise SystemExit("engine: set GENADAPTER_REDIS_URL (or GENADAPTER_REDIS_URL_FILE) to the adapters' store")
    checkpoint = checkpoint_folder(settings)
    config = read_config(checkpoint)
    model = resolve_base_model(settings.base_model)
    os.environ |= children.engine_environment(settings, settings.redis_url.get_secret_value(), checkpoint)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    command = children.engine_command(
        settings, model, ENGINE_PORT, config.rank, [target.name for target in config.targets]
    )
    # Of two values vLLM takes the later: from here on the engine answers other containers, drains before it ends, and
    # reports spans.
    command += ["--host", "0.0.0.0"]  # noqa: S104  # the network's policies let only the service through
    command += ["--shutdown-timeout", str(int(settings.shutdown_grace.total_seconds()))]
    if endpoint := traces_endpoint():
        command += ["--otlp-traces-endpoint", endpoint]
    return command + settings.engine_arguments  # the operator's have the last word here too


def main(arguments: list[str]) -> None:
    read_secrets()
    if traces_endpoint():
        for name, value in TRACING.items():
            os.environ.setdefault(name, value)
    match arguments:
        case ["service", *rest]:
            os.environ.setdefault("OTEL_SERVICE_NAME", "genadapter")
            command = service_command(rest)
        case ["engine"]:
            os.environ.setdefault("OTEL_SERVICE_NAME", "genadapter-engine")
            command = engine_command()
        case _:
            raise SystemExit("usage: start.py service [ARGUMENTS] | engine")
    program = shutil.which(command[0])
    if program is None:
        raise SystemExit(f"{command[0]} is not installed")
    os.execv(program, command)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
