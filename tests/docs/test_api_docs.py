"""docs/api.md says what the service does."""

from __future__ import annotations

import re

from tools.api_docs import PAGE, current


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == current(), "the API changed: write the page anew with `python tools/api_docs.py`"


def test_its_links_lead_somewhere() -> None:
    page = PAGE.read_text()
    headings = {heading.lower() for heading in re.findall(r"^#+ (\S+)$", page, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= headings
