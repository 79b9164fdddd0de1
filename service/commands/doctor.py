"""`genadapter doctor`: what is set, what is there, what answers, and what to do about what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import typer

from service.commands.client import DEFAULT_URL, EXIT_REFUSED, JsonOption, Output, UrlOption
from service.settings import SettingsError, load_settings, unknown_variables

WIDTH = 11


@dataclass(frozen=True)
class Finding:
    """`advice` without `ok`: what must be done; with it: what would be better."""

    what: str
    ok: bool
    detail: str
    advice: str | None = None

    def line(self) -> str:
        state = "BAD " if not self.ok else "ok  " if self.advice is None else "note"
        advice = "" if self.advice is None else f"\n{'':6}{'':{WIDTH}}  -> {self.advice}"
        return f"{state}  {self.what:<{WIDTH}}  {self.detail}{advice}"


def doctor(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Check what the service needs here: accelerator, engine, model, checkpoint, store, memory, disk, port.

    Says what to do about each. Exit code 1 if anything would keep the service from working.

    Example: genadapter doctor --json
    """
    output = Output(as_json)
    findings = list(_findings(url))
    lines = [*(finding.line() for finding in findings), "", _verdict(findings)]
    output.show([asdict(finding) for finding in findings], "\n".join(lines))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(EXIT_REFUSED)


def _verdict(findings: list[Finding]) -> str:
    bad = [finding.what for finding in findings if not finding.ok]
    if bad:
        return f"To be mended first: {', '.join(bad)}."
    notes = sum(finding.advice is not None for finding in findings)
    return "Nothing stands in the way." + (" What is marked `note` would make it better." if notes else "")


def _findings(url: str) -> Iterator[Finding]:
    from service.commands.checks import CHECKS, service

    try:
        settings = load_settings()
    except SettingsError as error:
        yield Finding("settings", False, str(error), "correct it in the environment or in .env")
    else:
        unknown = unknown_variables()
        detail = f"unknown: {', '.join(unknown)}" if unknown else "sensible"
        yield Finding("settings", True, detail, "correct their names, or unset them" if unknown else None)
        for what, check in CHECKS:
            yield _finding(what, lambda check=check: check(settings))  # type: ignore[misc]
    yield _finding("service", lambda: service(url))


def _finding(what: str, check: Callable[[], str]) -> Finding:
    from service.commands.checks import Problem

    try:
        return Finding(what, True, check())
    except Problem as problem:
        return Finding(what, not problem.grave, str(problem), problem.advice)
    except Exception as error:  # whatever it is, the others are to be looked at too
        return Finding(what, False, str(error) or type(error).__name__, "this check itself failed: please report it")
