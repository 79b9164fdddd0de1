"""Code and commands as they stand in the project's pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *(ROOT / "docs").glob("*.md")]
)
INDENT = "    "


def blocks(text: str) -> Iterator[list[str]]:
    """Code blocks, indented or fenced, without indent or fence."""
    block: list[str] = []
    fenced = False
    before = ""
    for line in [*text.splitlines(), ""]:
        inside = (line.startswith(INDENT) and (block or not before.strip())) or (block and not line.strip())
        if line.startswith("```"):
            fenced, inside = not fenced, False
        elif fenced:
            inside = True
        if inside:
            block.append(line if fenced else line.removeprefix(INDENT))
        elif block:
            yield block
            block = []
        before = line
    if any(block):
        yield block


def is_python(block: list[str]) -> bool:
    return block[0].startswith(("from ", "import ", "class ", "def "))


def commands(block: list[str]) -> Iterator[str]:
    """Whole commands: continued lines and quotes that span lines are joined; comments and empty lines left out."""
    waiting = ""
    for line in block:
        waiting = f"{waiting}\n{line}" if waiting else line
        if waiting.endswith("\\"):
            continue
        try:
            words = shlex.split(waiting, comments=True)
        except ValueError:  # a quote is open
            continue
        if words:
            yield waiting.strip()
        waiting = ""


def spans(text: str) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
