"""Shapes without a judgement that are only read: instructions with outputs, prompts with answers, benchmark questions.

instructions   {"instruction", "output"} with “input” or “context” if need be (Alpaca; Dolly says “response”), or
               {"instruction", "instances": [{"input", "output"}, …]} (Self-Instruct)
answers        {"prompt" or "messages", "completions": ["…", {"text": "…", "model": "…"}, …]}
mt-bench       {"question_id", "turns": ["…", …]}
"""

from __future__ import annotations

from collections.abc import Iterator

from app.services.data.formats import reading, trl
from app.services.data.formats.records import Answer, Conversation, Row
from app.services.data.imports import BadLineError
from trainer.records import Message

OUTPUTS = frozenset({"output", "response", "instances"})
"""Keys of which an instruction has one beside it."""


def read(row: Row) -> Iterator[Conversation]:
    """Read an instruction: a demonstration for each of its outputs. What is put in stands under the instruction."""
    instruction = reading.text(row, "instruction")
    instances = reading.listed(row, "instances") if "instances" in row else [row]
    for item in instances:
        instance = reading.mapping(item, "each of “instances”")
        key = "response" if "response" in instance else "output"
        given = reading.optional_text(instance, "input") or reading.optional_text(instance, "context")
        prompt = f"{instruction}\n\n{given}" if given.strip() else instruction
        yield Conversation((Message("user", prompt),), reading.text(instance, key))


def read_answers(row: Row) -> Iterator[Conversation]:
    """Read a prompt and its answers. A model's name tells that a model gave one; without it, a person wrote it."""
    if "messages" in row:
        messages = reading.prompt(reading.turns(row["messages"], "messages"))
    else:
        messages = trl.read_prompt(row.get("prompt"))
    yield Conversation(messages, answers=tuple(map(_answer, reading.listed(row, "completions"))))


def _answer(item: object) -> Answer:
    if isinstance(item, str):
        return Answer(item, "human")
    found = reading.mapping(item, "each of “completions” that is no text")
    model = reading.optional_text(found, "model")
    return Answer(reading.text(found, "text"), "model" if model else "human", model)


def read_question(row: Row) -> Iterator[Conversation]:
    """Read a question's first turn; the turns after it would answer an answer that is not there yet."""
    turns = reading.listed(row, "turns")
    if not turns or not isinstance(turns[0], str):
        raise BadLineError("needs a text as the first of “turns”.")
    yield Conversation((Message("user", turns[0]),))
