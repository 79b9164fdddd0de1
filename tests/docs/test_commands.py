"""What the pages tell people to type: run where that is quick, else parsed by what would run it."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from service.cli import app
from service.settings import DEFAULT_URL, Settings
from tests.contract.conftest import Service
from tests.docs.markdown import PAGES, ROOT, blocks, commands, is_python, spans

CLI = typer.main.get_command(app)
GENADAPTER = re.compile(r"(?:\.venv/bin/)?genadapter\b")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
ADAPTER_ID = re.compile(r"ga-(?:\.\.\.|[0-9a-f]{32})")
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]


@pytest.fixture(autouse=True)
def with_a_file_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the pages assume it of those who keep keys."""
    monkeypatch.setenv("GENADAPTER_API_KEYS_FILE", "api-keys.json")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def shell_commands(page: Path) -> Iterator[str]:
    for block in blocks(page.read_text()):
        if not is_python(block):
            yield from commands(block)


def parse(words: list[str], *, whole: bool) -> None:
    """As the command line would read them. `whole`: nothing may be missing."""
    command: Any = CLI
    context = command.make_context("genadapter", [], resilient_parsing=True)
    while hasattr(command, "resolve_command"):
        if not words or words[0].startswith("-"):
            assert not whole or "--help" in words or "--install-completion" in words
            return
        _, command, words = command.resolve_command(context, words)
        assert command is not None, f"there is no such command: {words}"
        context = command.make_context(command.name, list(words), parent=context, resilient_parsing=True)
    try:
        command.make_context(command.name, list(words), parent=context)
    except typer.BadParameter as error:
        if whole or type(error).__name__ != "MissingParameter":
            raise


def check(line: str, *, whole: bool) -> bool:
    """Whether the line is one of ours; fails if it cannot work."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if not words:
        return False
    if GENADAPTER.fullmatch(words[0]):
        stop = next((i for i, word in enumerate(words) if word in ("<", ">", "|", ";", "&&")), len(words))
        parse(words[1:stop], whole=whole)
    elif words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= TARGETS, line
    elif re.search(r"(^|/)python3?$", words[0]) and words[1:2] == ["-m"]:
        assert importlib.util.find_spec(words[2]), line
        assert all((ROOT / word).exists() for word in words[3:] if word.startswith("tests/")), line
    elif re.search(r"(^|/)python3?$", words[0]) and words[1:]:
        assert (ROOT / words[1]).is_file(), line
    elif re.match(r"\.?/?(tools|docker|\.ci)/", words[0]):
        assert os.access(ROOT / words[0], os.X_OK), line
    else:
        return False
    return True


def alternatives(span: str) -> Iterator[str]:
    """`keys add|list` stands for two commands."""
    parts = [word.split("|") if re.fullmatch(r"[\w-]+(\|[\w-]+)+", word) else [word] for word in span.split()]
    yield from (" ".join(words) for words in itertools.product(*parts))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_blocks(page: Path) -> None:
    for line in shell_commands(page):
        if line.startswith(("make", ".venv", "genadapter", "tools/", "python")):
            assert check(line, whole=True), line


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_commands_in_the_text(page: Path) -> None:
    prose = "\n".join(line for line in page.read_text().splitlines() if not line.startswith("    "))
    for span in spans(prose):
        if re.match(r"(\.venv/bin/)?(genadapter|make|python) ", span):
            for line in alternatives(span):
                check(line.replace(";", " ; "), whole=False)


def test_the_checks_find_what_is_wrong() -> None:
    for line in (
        "genadapter chatt x",
        "genadapter chat",
        "genadapter chat x --turn 1",
        "make nothing",
        "python -m bench.no",
    ):
        with pytest.raises((AssertionError, USAGE_ERROR)):
            check(line, whole=True)
    assert sum(check(line, whole=True) for page in PAGES for line in shell_commands(page)) > 15


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*words, name))
    if not hasattr(command, "commands"):
        yield words, command


@pytest.mark.parametrize(
    ("words", "command"), list(leaves(CLI)), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_examples_that_parse(words: tuple[str, ...], command: Any) -> None:
    examples = re.findall(r"Example: (.+(?:\n +\S.*)*)", command.help)
    assert examples, "write an 'Example:' into its docstring"
    for example in examples:
        assert check(" ".join(example.split()), whole=True)
        assert shlex.split(example)[1 : 1 + len(words)] == list(words)


CURLS = sorted(
    {line for page in PAGES for line in shell_commands(page) if line.startswith("curl") and DEFAULT_URL in line}
)


@pytest.mark.parametrize("line", CURLS)
def test_curl(line: str, service: Service, tmp_path: Path) -> None:
    """Run as it stands, but for the address and the adapter. A download needs the real generator: that one is looked up."""
    if "/peft" in line:
        assert "/adapters/{adapter_id}/peft" in service.client.get("/openapi.json").json()["paths"]
        return
    made = service.create(f"for the line {line}", keep_state=True)["id"]
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    command = ADAPTER_ID.sub(made, line.replace(DEFAULT_URL, service.url))
    script = f'curl() {{ command curl --fail-with-body "$@"; }}\n{command}'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


RUN_COMMANDS = ("contextualize", "chat", "generate", "adapters")
TYPED = sorted({line for page in PAGES for line in shell_commands(page) if GENADAPTER.match(line)})


@pytest.mark.parametrize("line", [line for line in TYPED if line.split()[1] in RUN_COMMANDS])
def test_genadapter(line: str, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as it stands, but for the address and the adapter."""
    made = service.create(f"for the line {line}", keep_state=True)["id"]
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.setenv("GENADAPTER_URL", service.url)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(ADAPTER_ID.sub(made, line), comments=True)[1:]
    result = CliRunner().invoke(app, words, input="What is it about?\n/quit\n")
    assert result.exit_code == 0, result.output


PROGRAMS = [(page, "\n".join(block)) for page in PAGES for block in blocks(page.read_text()) if is_python(block)]


@pytest.mark.parametrize(
    ("page", "program"), PROGRAMS, ids=[f"{name_of(page)}-{number}" for number, (page, _) in enumerate(PROGRAMS)]
)
def test_python(page: Path, program: str, service: Service, tmp_path: Path) -> None:
    """Run as it stands, but for the address and the adapter; what loads a model is only compiled."""
    compile(program, str(page), "exec")
    if "load_generator" in program:
        return
    made = service.create(f"for a program of {page.name}")["id"]
    program = program.replace("ga-...", made).replace(DEFAULT_URL, service.url)
    environment = {**os.environ, "GENADAPTER_URL": service.url}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


SETTING = re.compile(r"GENADAPTER_[A-Z_]*[A-Z]")
READ_BY = ("service", "tools", "bench", "docker-compose.yml")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_and_files_that_are_named_exist(page: Path) -> None:
    files = [path for name in READ_BY for path in ([ROOT / name] if "." in name else (ROOT / name).rglob("*.py"))]
    known = {f"GENADAPTER_{name.upper()}" for name in Settings.model_fields}
    known |= set(SETTING.findall("".join(path.read_text() for path in files)))
    text = page.read_text()
    assert set(SETTING.findall(text)) <= known
    named = re.findall(r"`((?:service|generator|bench|tests|tools|docker|k8s|docs|examples)/[\w./-]*)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
