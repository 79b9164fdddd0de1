"""Adapters on tiny random models of one architecture: what vLLM computes, as a program of its own.

    python -m tests.integration.architectures FOLDER

FOLDER holds the base model, `adapters/NAME` (PEFT) and `rows.json` ({name or "": token ids}). Writes `found.json`:
{name: [{token id: logprob} for each position]}. All adapters are asked in one batch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

RANK = 8  # vLLM's smallest that holds the adapters'


def main(folder: Path) -> None:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    rows = json.loads((folder / "rows.json").read_text())
    names = sorted(name for name in rows if name)
    engine = LLM(
        model=str(folder / "base"),
        dtype="float32",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=len(rows),
        enable_lora=True,
        max_loras=len(names),
        max_lora_rank=RANK,
        max_logprobs=-1,
        kv_cache_memory_bytes=64 << 20,
    )
    sampling = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=-1, detokenize=False)
    order = ["", *names]
    adapters = [
        LoRARequest(name, index, str(folder / "adapters" / name)) if name else None for index, name in enumerate(order)
    ]
    answers = engine.generate(
        [{"prompt_token_ids": rows[name]} for name in order], sampling, lora_request=adapters, use_tqdm=False
    )
    found = {
        name: [{token: entry.logprob for token, entry in position.items()} for position in answer.prompt_logprobs[1:]]
        for name, answer in zip(order, answers, strict=True)
    }
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
