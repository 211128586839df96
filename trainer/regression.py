r"""What a policy has unlearned: perplexity of given texts and accuracy on multiple choice, the alignment tax.

The set is a JSONL file with one object a line, of either kind:

    {"text": "The river rose in the night …"}
    {"question": "What boils at 100 degrees?", "choices": ["water", "iron"], "answer": 0}

A text is read without the chat template, a question as the user's turn of a chat. The choice is the one whose
log-likelihood a byte of UTF-8 is highest, so that neither long choices nor another tokenizer lose for it ("acc_norm" of
the language model evaluation harness, Gao et al. 2021). Perplexity is a token, so it compares policies that share a
tokenizer. Ouyang et al. 2022 (InstructGPT, 4.2) report such regressions and call their price the alignment tax.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer import modeling
from trainer.config import ConfigError
from trainer.data import prompt_ids
from trainer.device import Device
from trainer.intervals import ratio_interval
from trainer.jsonl import RecordError, read_jsonl
from trainer.layout import Layout
from trainer.records import Message
from trainer.tree import Tree

FILE = "regression.jsonl"
TOKENS_PER_FORWARD = 4096


@dataclass(frozen=True)
class Question:
    """A multiple-choice question; `answer` is the place of the right choice."""

    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class RegressionSet:
    """What policies are held against: texts to be predicted and questions to be answered."""

    texts: tuple[str, ...]
    questions: tuple[Question, ...]


def load(run_dir: Path, named: str | None) -> RegressionSet | None:
    """Read the file that the options name, or `data/regression.jsonl` of the run; None where there is neither."""
    path = Path(named) if named else run_dir / "data" / FILE
    if not path.exists():
        if named:
            raise ConfigError(f"options.regression names {path}, which does not exist.")
        return None
    texts, questions = [], []
    for number, row in read_jsonl(path):
        if isinstance(row.get("text"), str) and row["text"].strip():
            texts.append(row["text"])
        else:
            questions.append(_question(row, f"{path.name} line {number}"))
    if not texts and not questions:
        raise ConfigError(f"{path} is empty; give it texts or questions, or leave it out.")
    return RegressionSet(tuple(texts), tuple(questions))


def _question(row: dict[str, Any], where: str) -> Question:
    question, choices, answer = row.get("question"), row.get("choices"), row.get("answer")
    if not isinstance(question, str) or not isinstance(choices, list):
        raise RecordError(f"{where}: give a text, or a question with choices and the place of the answer.")
    if len(choices) < 2 or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise RecordError(f"{where}: a question has at least two choices, and none is empty.")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise RecordError(f"{where}: answer is the place of the right choice, from 0 to {len(choices) - 1}.")
    return Question(question, tuple(choices), answer)


def measure(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    given: RegressionSet,
    max_length: int,
    device: Device,
    seed: int,
) -> dict[str, Any]:
    """Return the figures of one policy: perplexity a token, accuracy with its 95 % interval over questions."""
    figures: dict[str, Any] = {}
    if given.texts:
        logps = _logps(policy, [_as_text(tokenizer, text, max_length) for text in given.texts], device)
        total, tokens = sum(float(row.sum()) for row in logps), sum(len(row) for row in logps)
        figures["perplexity"] = math.exp(-total / tokens)
    if given.questions:
        trees = [
            _as_choice(tokenizer, question, choice, max_length)
            for question in given.questions
            for choice in question.choices
        ]
        logps = _logps(policy, trees, device)
        hits = []
        start = 0
        for question in given.questions:
            rows = logps[start : start + len(question.choices)]
            start += len(question.choices)
            scores = [
                float(row.sum()) / len(choice.encode()) for row, choice in zip(rows, question.choices, strict=True)
            ]
            hits.append(float(max(range(len(scores)), key=scores.__getitem__) == question.answer))
        figures["choice_accuracy"] = sum(hits) / len(hits)
        figures["choice_accuracy_interval"] = list(ratio_interval(hits, [1.0] * len(hits), seed))
    return figures


def _as_text(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> Tree:
    """Return a text as a completion of its first token, since nothing predicts that one."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])[:max_length]
    if len(ids) < 2:
        raise ConfigError(f"The regression text {text[:40]!r} has fewer than two tokens, so nothing can be predicted.")
    return Tree(ids[:1], [ids[1:]])


def _as_choice(tokenizer: PreTrainedTokenizerBase, question: Question, choice: str, max_length: int) -> Tree:
    prompt = prompt_ids(tokenizer, (Message("user", question.question),))
    ids = list(tokenizer(choice, add_special_tokens=False)["input_ids"])
    if len(prompt) + len(ids) > max_length:
        raise ConfigError(f"The question {question.question[:40]!r} is longer than max_length {max_length}.")
    return Tree(prompt, [ids])


@torch.no_grad()
def _logps(policy: PreTrainedModel, trees: Sequence[Tree], device: Device) -> list[torch.Tensor]:
    """Return the log-probability of each token of each completion."""
    logps = [torch.empty(0)] * len(trees)
    for part, batch in Layout("rows", TOKENS_PER_FORWARD, device).batches(trees):
        values = modeling.completion_logps(policy, batch).cpu()
        for index, row in zip(part, torch.split(values, [len(trees[i].completions[0]) for i in part]), strict=True):
            logps[index] = row
    return logps
