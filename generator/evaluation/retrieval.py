"""The passages of a document that a question's words point to: BM25 (Lucene's variant, as bm25s has it)."""

from __future__ import annotations


def best_passages(passages: list[str], question: str, count: int) -> list[str]:
    """The `count` best passages in the document's order."""
    if len(passages) <= count:
        return passages
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize(passages, stopwords="en", show_progress=False), show_progress=False)
    query = bm25s.tokenize([question], stopwords="en", show_progress=False)
    found, _ = index.retrieve(query, k=count, show_progress=False)
    return [passages[i] for i in sorted(found[0].tolist())]
