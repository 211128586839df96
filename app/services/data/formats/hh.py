r"""Anthropic's HH-RLHF: two whole conversations as texts, “\n\nHuman: …\n\nAssistant: …”. TRL: implicit text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from app.services.data.formats import reading
from app.services.data.formats.records import Answer, CannotCarryError, Pair, Record, Row
from app.services.data.imports import BadLineError
from trainer.records import Message

_TURN = re.compile(r"\n\n(Human|Assistant):")
_NAMES = {"user": "Human", "assistant": "Assistant"}
_ROLES = {name: role for role, name in _NAMES.items()}


def write(pair: Pair) -> Row:
    """Return the pair; conversations that the shape's borders would cut elsewhere cannot be carried."""
    begin = pair.record.messages
    return {
        "chosen": _joined((*begin, Message("assistant", pair.chosen.text))),
        "rejected": _joined((*begin, Message("assistant", pair.rejected.text))),
    }


def read(row: Row) -> Iterator[Record]:
    """Read a pair. The prompt is the longest common beginning that ends at a turn's border."""
    prompt, better, worse = reading.split(_turns(row, "chosen"), _turns(row, "rejected"))
    yield Record(prompt, (Answer(better), Answer(worse)), ((0,), (1,)))


def _joined(messages: Sequence[Message]) -> str:
    if messages[0].role == "system":
        raise CannotCarryError("the shape has no system message")
    text = "".join(f"\n\n{_NAMES[item.role]}:{' ' * bool(item.content)}{item.content}" for item in messages)
    if _cut(text) != tuple(messages):
        raise CannotCarryError("a text in it holds a border of turns, “Human:” or “Assistant:” after an empty line")
    return text


def _turns(row: Row, key: str) -> tuple[Message, ...]:
    found = _cut(reading.text(row, key))
    if found is None:
        raise BadLineError(f"needs turns of “Human:” and “Assistant:” in “{key}”.")
    return found


def _cut(text: str) -> tuple[Message, ...] | None:
    before, *rest = _TURN.split(text)
    if before.strip() or not rest:
        return None
    return tuple(
        Message(_ROLES[name], content.removeprefix(" ")) for name, content in zip(rest[::2], rest[1::2], strict=True)
    )
