"""`genadapter serve`: the children, the app and the web server as one process tree, with a word on every stage."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from service import heap
from service.commands.client import EXIT_USAGE, Output
from service.commands.stages import Stages
from service.settings import Settings, SettingsError, load_settings, unknown_variables

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from service.launcher import Child, Supervisor

STORE_START_S = 30.0
READY_POLL_S = 0.25
BACKLOG = 2048  # uvicorn's own default
# Connections that are still open when the grace is over are cut; then the children end.
EXIT_OK, EXIT_FAILED = 0, 1


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object once all is ready.")] = False,
) -> None:
    """Start the service, with an embedded store and a local engine where none is set.

    It says what it starts, and when it is ready; Ctrl-C or SIGTERM ends it and all that it started. Settings are environment
    variables (GENADAPTER_...) or lines of a file .env; `genadapter doctor` looks at them and at this machine.

    Example: genadapter serve --port 8080

    Example: genadapter serve --json
    """
    overrides = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    try:
        settings = load_settings(**overrides)
        code = asyncio.run(_serve(settings, Stages(as_json)))
    except SettingsError as error:
        Output(as_json).fail(str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        code = EXIT_OK
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Python would wait for its threads, and a pass of the generator may take minutes: the grace is over, and all that lasts
    has been closed."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _serve(settings: Settings, stages: Stages) -> int:
    heap.expect_much()
    from service.launcher import ChildFailed, Supervisor

    logging.basicConfig(
        level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a line for each wrong byte of a caller's
    for name in unknown_variables():
        stages.say(f"warning: {name} is no setting of this service, and is ignored")
    _look_around(settings, stages)
    await asyncio.to_thread(_check, settings)
    _tell_access(settings, stages)
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(_listen(settings))
        await _prepare_base_model(settings, stages)
        stopping = _stop_signals()
        supervisor = await stack.enter_async_context(Supervisor())
        try:
            settings, engine = await _start_children(settings, supervisor, stages)
            return await _run(settings, engine, listener, stopping, stages)
        except ChildFailed as error:
            stages.say(f"stopped: {error}")
            return EXIT_FAILED
        finally:
            stages.say("stopping")


def _tell_access(settings: Settings, stages: Stages) -> None:
    """Whom the service is open to, where there are no keys."""
    if settings.api_keys_file is None and settings.is_loopback:
        stages.say("no API keys (GENADAPTER_API_KEYS_FILE): only this machine can use the service")
    elif settings.api_keys_file is None:
        stages.say("warning: other machines can use this service without a key, and see and use every adapter")


def _look_around(settings: Settings, stages: Stages) -> None:
    """What would fail later and say less: told now. Raises SettingsError for what cannot work."""
    from service.commands.checks import Problem, disk, memory

    for check in (memory, disk):
        try:
            check(settings)
        except Problem as problem:
            words = f"{problem}: {problem.advice}"
            if problem.grave:
                raise SettingsError(words) from None
            stages.say(f"warning: {words}")


def _check(settings: Settings) -> None:
    """What would stop the start later: a checkpoint that is not there, a key file that cannot be read."""
    from service.auth import Authenticator
    from service.backend import read_identity

    Authenticator(settings.api_keys_file)
    try:
        read_identity(settings)
    except (ValueError, OSError) as error:
        raise SettingsError(f"GENADAPTER_GENERATOR: {error}") from None


async def _prepare_base_model(settings: Settings, stages: Stages) -> None:
    """Downloads or unpacks it if need be, before anything waits for it. Ctrl-C ends the process there and then."""
    from service.commands.checks import Problem, base_model

    if "contextualize" not in settings.roles and settings.engine_url is not None:
        return
    stages.say(f"base model: {settings.base_model}")
    try:
        await asyncio.to_thread(base_model, settings)
    except asyncio.CancelledError:  # asyncio itself would wait for the thread
        _leave(EXIT_OK)
    except Problem as problem:
        raise SettingsError(" ".join(f"GENADAPTER_BASE_MODEL: {problem}: {problem.advice}".split())) from None
    except OSError as error:
        raise SettingsError(f"the base model cannot be kept on this disk: {error}") from None


def _listen(settings: Settings) -> socket.socket:
    """Bound before anything is started: a port that is taken is found at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
        # Inherited by what is accepted. asyncio sets it for sockets that name their protocol alone; without it a body waits 40 ms
        # for the acknowledgement of its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        from service.commands.checks import not_listening

        problem = not_listening(error, settings)
        raise SettingsError(f"{problem}: {problem.advice}") from None


def _stop_signals() -> asyncio.Event:
    """Set by SIGTERM and SIGINT; the process then ends by itself, with code 0."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


async def _start_children(settings: Settings, supervisor: Supervisor, stages: Stages) -> tuple[Settings, Child | None]:
    """Settings that name every part, and the engine's process if it is ours. The store is waited for, the engine is
    not."""
    from pydantic import SecretStr

    from service import children

    engine = None
    if settings.redis_url is None:
        stages.say(f"store: embedded, data in {settings.data_folder}")
        try:
            spec, url = await asyncio.to_thread(children.store_child, settings.data_folder)
        except OSError as error:
            reason = f"{settings.data_folder} cannot be used ({error.strerror})"
            raise SettingsError(f"{reason}: set GENADAPTER_DATA_DIR to a folder of yours") from None
        await supervisor.start(spec).wait_ready(STORE_START_S)
        settings = settings.model_copy(update={"redis_url": SecretStr(url)})
        stages.part_is_ready("store")
    if settings.engine_url is None and "generate" in settings.roles:
        assert settings.redis_url is not None
        stages.say(f"engine: starting vLLM with {settings.base_model}, which takes a minute or so (its lines follow)")
        spec, url = await asyncio.to_thread(children.engine_child, settings, settings.redis_url.get_secret_value())
        engine = supervisor.start(spec)
        settings = settings.model_copy(update={"engine_url": url})
    return settings, engine


async def _run(
    settings: Settings, engine: Child | None, listener: socket.socket, stopping: asyncio.Event, stages: Stages
) -> int:
    """The web server until it is told to stop, and the way to readiness beside it."""
    import uvicorn

    from service.app import create_app
    from service.connections import bounded_protocol, most_connections

    app = create_app(settings)
    config = uvicorn.Config(
        app,
        http=bounded_protocol(most_connections(settings)),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace.total_seconds()),
    )
    server = _server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    starting = asyncio.create_task(_until_ready(settings, app, server, engine, stages))
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({serving, stop, starting}, return_when=asyncio.FIRST_COMPLETED)
    if not (serving.done() or stop.done()) and starting.exception() is None:
        await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
    if hasattr(app.state, "services"):
        app.state.services.stopping = True
    server.should_exit = True
    starting.cancel()
    stop.cancel()
    results = await asyncio.gather(serving, starting, return_exceptions=True)
    failures = [result for result in results if isinstance(result, Exception)]
    if failures:
        raise failures[0]
    return EXIT_OK if server.started else EXIT_FAILED


def _server(config: uvicorn.Config) -> uvicorn.Server:
    """uvicorn without its signal handlers: they would end the process by the signal, and not with code 0."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server(config)


async def _until_ready(
    settings: Settings, app: FastAPI, server: uvicorn.Server, engine: Child | None, stages: Stages
) -> None:
    """Tells of each part that has become ready, and how to use the service when all are. Raises ChildFailed."""
    waiting = asyncio.create_task(engine.wait_ready(settings.engine_start_timeout.total_seconds())) if engine else None
    try:
        while True:
            if waiting is not None and waiting.done():
                waiting.result()
            parts = await app.state.services.readiness() if server.started else {"server": "starting"}
            for part, state in parts.items():
                if state == "ok":
                    stages.part_is_ready(part)
                elif state == "failed to load":
                    raise SettingsError("the generator cannot be loaded, see above")
            if all(state == "ok" for state in parts.values()):
                break
            stages.still(parts)
            await asyncio.sleep(READY_POLL_S)
    finally:
        if waiting is not None:
            waiting.cancel()
    heap.settle()
    host = settings.host if settings.is_loopback else "127.0.0.1"
    url = f"http://{f'[{host}]' if ':' in host else host}:{server.servers[0].sockets[0].getsockname()[1]}"
    stages.all_is_ready(url, settings)
