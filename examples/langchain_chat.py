"""LangChain through the OpenAI API: an adapter is a model name.

pip install langchain-openai
python examples/langchain_chat.py "Where is the Orchid III moored?"

Needs a running service (`make run`). LlamaIndex does the same with `OpenAILike(model=adapter.id, api_base=..., ...)` of
`llama-index-llms-openai-like`.
"""

import os
import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

from service.client import Client

if len(sys.argv) != 2:
    sys.exit(__doc__)
url = os.environ.get("GENADAPTER_URL", "http://127.0.0.1:8000")

with Client(url) as client:
    adapter = client.contextualize(text="The Orchid III is moored at pier 14. Her captain is Ida Marsh.")

model = ChatOpenAI(
    model=adapter.id,
    base_url=f"{url}/v1",
    api_key=os.environ.get("GENADAPTER_API_KEY", "unused"),
    temperature=0,
    max_completion_tokens=60,
)
prompt = ChatPromptTemplate.from_messages([("user", "{question}")])
for piece in (prompt | model | StrOutputParser()).stream({"question": sys.argv[1]}):
    print(piece, end="", flush=True)
print()
