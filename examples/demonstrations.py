"""Demonstrations of a task become an adapter: the task is then done without examples in the prompt.

python examples/demonstrations.py "The porridge was cold and nobody came."

Needs a running service (`make run`). The words of the answer are compared by their likelihood, which is steadier with a
small model than letting it write: POST /generate gives the log probabilities.
"""

import os
import sys

import httpx

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

review = sys.argv[1]
url = os.environ.get("GENADAPTER_URL", "http://127.0.0.1:8000")
key = os.environ.get("GENADAPTER_API_KEY", "unused")
text = "\n\n".join(f"{QUESTION.format(said)} {verdict}" for said, verdict in DEMONSTRATIONS)

with Client(url) as client:
    adapter = client.contextualize(text=text)

request = {
    "adapter_id": adapter.id,
    "prompt": QUESTION.format(review),
    "max_tokens": 1,
    "logprobs": 20,
    "temperature": 0,
}
headers = {"Authorization": f"Bearer {key}"}
response = httpx.post(f"{url}/generate", json=request, headers=headers, timeout=300).raise_for_status()
choice = response.json()["choices"][0]
likeliest = choice["logprobs"]["content"][0]["top_logprobs"]
print(f"verdict:{choice['text']}")
for verdict in ("good", "bad"):
    found = [item["logprob"] for item in likeliest if item["token"].strip() == verdict]
    print(f"  {verdict:>4}: {f'log probability {found[0]:.2f}' if found else 'not among the 20 likeliest'}")
