"""What an adapter is trained for. Each objective makes rows (prompt, target) under one adapter; one pass serves them all.

Kinds of loss: "ce", next-token loss on the target; "kl", staying at the frozen model's distribution there (negatives), or
going to that of the frozen model which has read the document (completion).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from generator.training.data import Passage, Question

SHORT_PHRASE = "Answer with a short phrase."
_TEXT_START = "<|endoftext|>"
_CUT = "\x00"  # marks where a context goes in a chat's text; in no document


@dataclass
class Row:
    """One sequence: `prompt` is read, `target` is scored, under the adapter of document `document`."""

    objective: str
    document: int
    prompt: list[int]
    target: list[int]
    teacher: Tensor | None = None  # states of the frozen model that predict the target, len(target) x d_model
    taught: list[int] | None = None  # the prompt that the frozen model is to be read with, as the teacher


class Prompts:
    """Token ids of questions and answers in the formats that users send."""

    def __init__(
        self, tokenize: Callable[[str], list[int]], chat: Callable[[str], str], start: list[int], end: int
    ) -> None:
        """chat: a user's message -> the text of the prompt; start: ids that open raw text; end: the end-of-turn token."""
        self.tokenize, self.chat, self.start, self.end = tokenize, chat, start, end

    @classmethod
    def of(cls, tokenizer: Any) -> Prompts:
        """Those of a Hugging Face tokenizer; without a chat template a chat is the bare text."""

        def chat(message: str) -> str:
            if tokenizer.chat_template is None:
                return message + "\n"
            messages = [{"role": "user", "content": message}]
            text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            return text

        def tokenize(text: str) -> list[int]:
            ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
            return ids

        # SmolLM2 was trained on texts that begin with <|endoftext|>; its "bos" token opens a chat turn.
        start = tokenizer.get_vocab().get(_TEXT_START, tokenizer.bos_token_id)
        return cls(tokenize, chat, [start], tokenizer.eos_token_id)

    def question(self, question: Question, style: str, context: list[int] | None = None) -> tuple[list[int], list[int]]:
        """Prompt and target in one style: "phrase" and "plain" are chats, "raw" is `Question: ... Answer:`.

        context: a document's ids to be put before the question.
        """
        before = [*context, *self.tokenize("\n\n")] if context else []
        if style == "raw" or question.whole:
            asked = self.tokenize(question.text if question.whole else f"Question: {question.text}\nAnswer:")
            return [*self.start, *before, *asked], self.tokenize(f" {question.gold}\n")
        text = f"{question.text} {SHORT_PHRASE}" if style == "phrase" else question.text
        opening, rest = self.chat(f"{_CUT}{text}").split(_CUT)
        return [*self.tokenize(opening), *before, *self.tokenize(rest)], [*self.tokenize(question.gold), self.end]


def answers(
    prompts: Prompts, document: int, passages: list[Passage], rng: random.Random, count: int, longest: int
) -> list[Row]:
    """Questions about the document."""
    pool = [question for passage in passages for question in passage.questions]
    rows = []
    for question in rng.sample(pool, min(count, len(pool))):
        prompt, target = prompts.question(question, rng.choices(("phrase", "plain", "raw"), (0.6, 0.2, 0.2))[0])
        rows.append(Row("answers", document, prompt, target[:longest]))
    return rows


def distillation(
    prompts: Prompts, document: int, passages: list[Passage], rng: random.Random, count: int, longest: int
) -> list[Row]:
    """Questions about the document; the teacher has the passage in its prompt."""
    pool = [(passage, question) for passage in passages for question in passage.questions]
    rows = []
    for passage, question in rng.sample(pool, min(count, len(pool))):
        prompt, target = prompts.question(question, "phrase")
        taught, _ = prompts.question(question, "phrase", passage.ids)
        rows.append(Row("distillation", document, prompt, target[:longest], taught=taught))
    return rows


def reconstruction(prompts: Prompts, document: int, ids: list[int], rng: random.Random, span: int) -> list[Row]:
    """A random span of the document itself."""
    start = rng.randrange(max(1, len(ids) - span))
    return [Row("reconstruction", document, prompts.start, ids[start : start + span])]


def completion(prompts: Prompts, document: int, ids: list[int], split: int, final: Tensor, span: int) -> list[Row]:
    """What follows the first `split` tokens, from their adapter alone; the teacher has them before its eyes.

    final: the frozen model's last states over the chunk (row p predicts token p + 1).
    """
    target = ids[split : split + span]
    if len(target) < 2:
        return []
    # The span's first token is read, not scored: from its own start alone nothing says which text goes on here.
    teacher = final[split : split + len(target) - 1]
    return [Row("completion", document, [*prompts.start, target[0]], target[1:], teacher)]


def unrelated(
    prompts: Prompts, document: int, others: list[Passage], rng: random.Random, span: int, count: int
) -> list[Row]:
    """Text of another document, and `count` questions about others: the adapter must leave both as they are."""
    other = rng.choice(others)
    start = rng.randrange(max(1, len(other.ids) - span))
    rows = [Row("unrelated_text", document, prompts.start, other.ids[start : start + span])]
    pool = [question for passage in others for question in passage.questions]
    for question in rng.sample(pool, min(count, len(pool))):
        prompt, target = prompts.question(question, rng.choice(("phrase", "plain", "raw")))
        rows.append(Row("unrelated_question", document, prompt, target[:span]))
    return rows


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Sum over the target's tokens. logits: T x vocabulary; target: T."""
    return F.cross_entropy(logits, target, reduction="sum")


def divergence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Sum over tokens of KL(teacher || student). Both T x vocabulary."""
    student, teacher = F.log_softmax(logits, -1), F.log_softmax(teacher_logits, -1)
    total: Tensor = torch.sum(teacher.exp() * (teacher - student))
    return total


def top_divergence(logits: Tensor, teacher_logits: Tensor, count: int) -> Tensor:
    """Sum over tokens of KL(teacher || student) over the teacher's `count` likeliest tokens and the rest as one."""
    student, teacher = F.log_softmax(logits, -1), F.log_softmax(teacher_logits, -1)
    known, tokens = teacher.topk(min(count, teacher.shape[-1]), -1)
    learned = student.gather(-1, tokens)
    rest_t, rest_s = (torch.log1p(-part.exp().sum(-1).clamp_max(1 - 1e-6)) for part in (known, learned))
    total: Tensor = torch.sum(known.exp() * (known - learned)) + torch.sum(rest_t.exp() * (rest_t - rest_s))
    return total


def symmetric_divergence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Sum over tokens of KL(teacher || student) + KL(student || teacher). Both T x vocabulary.

    The first alone hardly sees an answer that the teacher thinks unlikely become likely; the second does.
    """
    student, teacher = F.log_softmax(logits, -1), F.log_softmax(teacher_logits, -1)
    total: Tensor = torch.sum((teacher.exp() - student.exp()) * (teacher - student))
    return total
