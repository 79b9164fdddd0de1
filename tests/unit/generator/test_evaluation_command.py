"""`genadapter eval`: what is wrong with a request is said in one line, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.commands.client import EXIT_USAGE
from service.commands.evaluation import _publish, evaluation


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["all", "riddles"], "riddles: not among the tasks"),
        (["all", "--source", "riddles=squad:x"], "riddles: not among the tasks"),
        (["all", "--lengths", "512,long"], "is not a list of whole numbers"),
        (["all", "--checkpoint", "nowhere"], "nowhere"),
        (["quality", "--checkpoint", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_request_is_said_in_words(arguments: list[str], said: str, tmp_path: Path) -> None:
    ended = CliRunner().invoke(evaluation, [*arguments, "--out", str(tmp_path / "out")])
    assert ended.exit_code == EXIT_USAGE
    assert said in ended.stderr
    ended = CliRunner().invoke(evaluation, [*arguments, "--out", str(tmp_path / "out"), "--json"])
    assert said in json.loads(ended.stdout)["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_a_published_report_shows_its_plots(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "documents.png").write_bytes(b"picture")
    (tmp_path / "run" / "results.md").write_text("![Documents](documents.png)\n")
    _publish(tmp_path / "run" / "results.md", tmp_path / "docs" / "results.md")
    assert (tmp_path / "docs" / "results.md").read_text() == "![Documents](results/documents.png)\n"
    assert (tmp_path / "docs" / "results" / "documents.png").read_bytes() == b"picture"
