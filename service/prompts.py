"""How documents and conversations become the one text that the generator reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    text: str
    title: str | None = None


def documents_text(documents: Sequence[Document]) -> str:
    """Each document under its title as a heading, with a blank line between them."""
    parts = [f"# {document.title}\n\n{document.text}" if document.title else document.text for document in documents]
    return "\n\n".join(part.strip() for part in parts)


def conversation_text(turns: Sequence[tuple[str, str]]) -> str:
    """One line `Role: content` for each turn of (role, content)."""
    return "\n".join(f"{role.capitalize()}: {content.strip()}" for role, content in turns)
