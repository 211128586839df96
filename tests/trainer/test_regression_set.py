"""The regression set: what it takes, what it refuses, and its figures against the model's own numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CPU, ask, build_tokenizer

from trainer import modeling, regression
from trainer.config import ConfigError
from trainer.data import prompt_ids
from trainer.jsonl import RecordError


def put(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "data").mkdir(exist_ok=True)
    path = folder / "data" / regression.FILE
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def logps_of(policy: Any, ids: list[int], start: int) -> float:
    """The log-likelihood of `ids[start:]`, from the model's logits and nothing else."""
    with torch.no_grad():
        logps = policy(torch.tensor([ids])).logits[0].float().log_softmax(dim=-1)
    return float(sum(logps[place - 1, ids[place]] for place in range(start, len(ids))))


def test_the_figures_are_those_of_the_models_own_logits(tiny_model: str, tmp_path: Path) -> None:
    texts = ["tell me 1 and 2", "and 3 tell me"]
    questions = [("tell 1", ["yes", "no no"], 0), ("tell 2", ["me", "and and and"], 1), ("tell 3", ["1", "2", "3"], 2)]
    rows: list[dict[str, Any]] = [{"text": text} for text in texts]
    rows += [{"question": q, "choices": c, "answer": a} for q, c, a in questions]
    put(tmp_path, *rows)
    given = regression.load(tmp_path, None)
    assert given is not None
    policy, tokenizer = modeling.load_policy(tiny_model, torch.float32, CPU.device), build_tokenizer()
    found = regression.measure(policy, tokenizer, given, 64, CPU, seed=0)

    encoded = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    total = sum(logps_of(policy, ids, 1) for ids in encoded)
    tokens = sum(len(ids) - 1 for ids in encoded)
    assert found["perplexity"] == pytest.approx(torch.exp(torch.tensor(-total / tokens)).item(), rel=1e-4)
    right = 0
    for question, choices, answer in questions:
        prompt = prompt_ids(tokenizer, ask(question))
        scores = [
            logps_of(policy, [*prompt, *tokenizer(choice, add_special_tokens=False)["input_ids"]], len(prompt))
            / len(choice.encode())
            for choice in choices
        ]
        right += scores.index(max(scores)) == answer
    assert found["choice_accuracy"] == pytest.approx(right / 3)
    assert found["choice_accuracy_interval"][0] <= found["choice_accuracy"] <= found["choice_accuracy_interval"][1]


def test_no_file_is_no_set_and_a_named_one_has_to_be_there(tmp_path: Path) -> None:
    assert regression.load(tmp_path, None) is None
    with pytest.raises(ConfigError, match="which does not exist"):
        regression.load(tmp_path, str(tmp_path / "gone.jsonl"))
    assert regression.load(tmp_path, str(put(tmp_path, {"text": "one two"}))) is not None


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"text": "  "}, "give a text, or a question"),
        ({"question": "q", "choices": ["a"], "answer": 0}, "at least two choices"),
        ({"question": "q", "choices": ["a", " "], "answer": 0}, "none is empty"),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, "from 0 to 1"),
        ({"question": "q", "choices": ["a", "b"], "answer": True}, "from 0 to 1"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, row: dict[str, Any], sentence: str) -> None:
    put(tmp_path, {"text": "a good one"}, row)
    with pytest.raises(RecordError, match=f"line 2.*{sentence}"):
        regression.load(tmp_path, None)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    put(tmp_path)
    with pytest.raises(ConfigError, match="is empty"):
        regression.load(tmp_path, None)
