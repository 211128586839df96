"""The demo's prompts and demonstrations."""

import json
from pathlib import Path

import app.demo
from app.demo.preference import features
from trainer.records import Message, split_of

DATA = Path(app.demo.__file__).parent / "data"
HELD_OUT_FRACTION = 0.33


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def messages(row: dict) -> tuple[Message, ...]:
    return tuple(Message(**message) for message in row["messages"])


def test_there_are_72_different_prompts_and_a_third_is_held_out() -> None:
    prompts = [messages(row) for row in rows("prompts.jsonl")]
    assert len(prompts) == len(set(prompts)) == 72
    assert sum(split_of(prompt, HELD_OUT_FRACTION) == "held_out" for prompt in prompts) == 25
    assert all(prompt[-1].role == "user" for prompt in prompts)
    assert sum(len(prompt) > 1 for prompt in prompts) == 4, "some prompts are conversations"


def test_demonstrations_answer_training_prompts_only() -> None:
    prompts = {messages(row) for row in rows("prompts.jsonl")}
    demonstrations = rows("demonstrations.jsonl")
    assert len(demonstrations) == 46
    assert all(messages(row) in prompts for row in demonstrations)
    assert all(split_of(messages(row), HELD_OUT_FRACTION) == "train" for row in demonstrations)


def test_demonstrations_are_what_the_guidelines_ask_for() -> None:
    for row in rows("demonstrations.jsonl"):
        seen = features(row["messages"][-1]["content"], row["completion"])
        assert seen.finished == 1.0, row
        assert seen.brief >= 0.9, row
        assert seen.clutter == 0.0, row
