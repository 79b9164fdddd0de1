"""A conversation that grows turn by turn: each exchange is added to the adapter, and no prompt grows.

python examples/growing_conversation.py

Type; an empty line or Ctrl-D ends it. Only the newest message is ever in the prompt: what was said before is in the adapter.
Needs a running service (`make run`) and, beside this project, `pip install openai`.
"""

import contextlib
import os

from openai import OpenAI

from service.client import Client, Message

url = os.environ.get("GENADAPTER_URL", "http://127.0.0.1:8000")
openai = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("GENADAPTER_API_KEY", "unused"))
opening: list[Message] = [
    {"role": "user", "content": "I am Ida, and I look after the lighthouse of Gull Rock."},
    {"role": "assistant", "content": "Nice to meet you, Ida."},
]

with Client(url) as client, contextlib.suppress(EOFError):
    adapter = client.contextualize(messages=opening, keep_state=True)
    while said := input("you: "):
        reply = openai.chat.completions.create(
            model=adapter.id, messages=[{"role": "user", "content": said}], max_tokens=80, temperature=0
        )
        answer = reply.choices[0].message.content or ""
        print(f"model: {answer}")
        # A new adapter with the exchange in it; only these few tokens are read. The one before is needed no more.
        turn: list[Message] = [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
        before, adapter = adapter, client.append(adapter.id, messages=turn)
        client.delete(before.id)
        print(f"       [{adapter.id} has read {adapter.tokens} tokens]")
print()
