"""Demonstrations of a task become an adapter: the task is then done without examples in the prompt.

python examples/demonstrations.py "The porridge was cold and nobody came."

Needs a running service (`make run`) and, beside this project, `pip install openai`. The possible answers are compared by how
much likelier the adapter makes each, which is steadier than letting a small model write; the shipped one is very small.
"""

import os
import sys

from openai import OpenAI

from service.client import Client

DEMONSTRATIONS = (
    ("What a lovely morning on the lake, and the staff knew our names.", "good"),
    ("The room smelled of paint, and the shower ran cold.", "bad"),
    ("Fresh bread, a window to the sea: we will come again.", "good"),
    ("They had lost our booking and did not care.", "bad"),
    ("Our host drove us to the station himself, singing.", "good"),
    ("Thin walls, loud neighbours, no sleep.", "bad"),
)
QUESTION = "Review: {}\nVerdict:"

if len(sys.argv) != 2:
    sys.exit(__doc__)
review = sys.argv[1]
url = os.environ.get("GENADAPTER_URL", "http://127.0.0.1:8000")
openai = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("GENADAPTER_API_KEY", "unused"))
text = "\n\n".join(f"{QUESTION.format(said)} {verdict}" for said, verdict in DEMONSTRATIONS)

with Client(url) as client:
    adapter = client.contextualize(text=text)


def log_probability(model: str, verdict: str) -> float:
    """Of the verdict's last token behind the question."""
    prompt = f"{QUESTION.format(review)} {verdict}"
    scored = openai.completions.create(model=model, prompt=prompt, max_tokens=0, echo=True, logprobs=1)
    logprobs = scored.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    return logprobs.token_logprobs[-1]


print(f"{'':8}{'adapter':>9}{'without':>9}")
added = {}
for verdict in ("good", "bad"):
    with_adapter, without = log_probability(adapter.id, verdict), log_probability(adapter.base_model, verdict)
    added[verdict] = with_adapter - without
    print(f"{verdict:8}{with_adapter:9.2f}{without:9.2f}")
print(f"verdict: {max(added, key=added.__getitem__)}")
