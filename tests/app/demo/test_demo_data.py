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


def test_every_training_prompt_has_a_demonstration_and_no_held_out_one_has() -> None:
    prompts = [messages(row) for row in rows("prompts.jsonl")]
    train = [prompt for prompt in prompts if split_of(prompt, HELD_OUT_FRACTION) == "train"]
    assert [messages(row) for row in rows("demonstrations.jsonl")] == train
    assert len({prompt[-1].content for prompt in prompts}) == 72, "labelers find a demonstration by its question"


def test_the_next_prompts_are_new() -> None:
    fresh = [messages(row) for row in rows("next_prompts.jsonl")]
    assert len(set(fresh)) == 16
    assert not set(fresh) & {messages(row) for row in rows("prompts.jsonl")}


def test_the_exam_prompts_are_new_and_all_held_out() -> None:
    exam = [messages(row) for row in rows("exam_prompts.jsonl")]
    assert len(set(exam)) == len(exam) == 62
    assert not set(exam) & {messages(row) for name in ("prompts.jsonl", "next_prompts.jsonl") for row in rows(name)}
    assert {split_of(prompt, HELD_OUT_FRACTION) for prompt in exam} == {"held_out"}


def test_demonstrations_are_what_the_guidelines_ask_for() -> None:
    for row in rows("demonstrations.jsonl"):
        seen = features(row["messages"][-1]["content"], row["completion"])
        assert seen.finished == 1.0, row
        assert seen.brief >= 0.9, row
        assert seen.clutter == 0.0, row
