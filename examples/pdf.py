"""A PDF becomes an adapter, and a question is answered from it.

python examples/pdf.py report.pdf "What is this report about?"

Needs a running service (`make run`) and, beside this project, `pip install openai`.
"""

import os
import sys

from openai import OpenAI

from service.client import Client

if len(sys.argv) != 3:
    sys.exit(__doc__)
path, question = sys.argv[1:]
url = os.environ.get("GENADAPTER_URL", "http://127.0.0.1:8000")

with Client(url) as client:
    adapter = client.contextualize(files=[path])
print(f"{path}: {adapter.tokens} tokens are now {adapter.id} ({adapter.bytes / 1024**2:.1f} MiB)")

openai = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("GENADAPTER_API_KEY", "unused"))
answer = openai.chat.completions.create(
    model=adapter.id,  # the PDF is in no prompt
    messages=[{"role": "user", "content": question}],
    max_tokens=100,
    temperature=0,
)
print(answer.choices[0].message.content)
