"""TRL's shapes: preference (conversational or text, explicit or implicit prompt), unpaired, prompt-only, SFT messages.

`margin` is the strength as the reward trainer takes it, 0 where nobody said. Columns that TRL does not know
(`prompt_group`, `tie`) are ignored by its trainers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from app.services.data.formats import reading
from app.services.data.formats.records import (
    STRONGEST,
    Answer,
    CannotCarryError,
    Conversation,
    LeftOutError,
    Pair,
    Record,
    Row,
)
from app.services.data.imports import BadLineError
from trainer.records import Message


def turns(messages: Sequence[Message]) -> list[Row]:
    """Return messages as TRL writes them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def _assistant(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]


def explicit(pair: Pair) -> Row:
    """Return the conversational row with an explicit prompt, which DPO takes."""
    return {
        "prompt": turns(pair.record.messages),
        "chosen": _assistant(pair.chosen.text),
        "rejected": _assistant(pair.rejected.text),
        **_more(pair),
    }


def implicit(pair: Pair) -> Row:
    """Return the conversational row whose prompt is the common beginning, which the reward trainer takes."""
    begin = turns(pair.record.messages)
    return {
        "chosen": begin + _assistant(pair.chosen.text),
        "rejected": begin + _assistant(pair.rejected.text),
        **_more(pair),
    }


def plain(pair: Pair) -> Row:
    """Return the row of texts with an explicit prompt. Only a prompt of one turn is a text."""
    messages = pair.record.messages
    if len(messages) != 1:
        raise CannotCarryError("a prompt of several turns is no single text")
    return {
        "prompt": messages[0].content,
        "chosen": pair.chosen.text,
        "rejected": pair.rejected.text,
        **_more(pair),
    }


def _more(pair: Pair) -> Row:
    return {"margin": float(pair.strength), "tie": pair.tie, "prompt_group": pair.record.group}


def read_preference(row: Row) -> Iterator[Record]:
    """Read any of the preference shapes: texts or conversations, with or without a prompt of its own."""
    messages: tuple[Message, ...]
    chosen, rejected, begin = row.get("chosen"), row.get("rejected"), row.get("prompt")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if not isinstance(begin, str):
            raise BadLineError("needs a text as “prompt” where “chosen” and “rejected” are texts.")
        messages = (Message("user", begin),)
        better, worse = chosen, rejected
    else:
        first, second = reading.turns(chosen, "chosen"), reading.turns(rejected, "rejected")
        if isinstance(begin, list):
            messages = reading.prompt(reading.turns(begin, "prompt"))
            better, worse = reading.answer(first), reading.answer(second)
        else:  # A prompt that is a text stands in the conversations as well (as in UltraFeedback binarized).
            messages, better, worse = reading.split(first, second)
    margin = reading.number(row.get("margin", 0))
    if margin is None:
        raise BadLineError("needs a number as “margin”.")
    tie = row.get("tie") is True
    strength = min(STRONGEST, round(margin)) if margin > 0 else 0
    yield Record(
        messages,
        (Answer(better), Answer(worse)),
        ((0, 1),) if tie else ((0,), (1,)),
        (strength,) if strength and not tie else None,
        group=reading.optional_text(row, "prompt_group"),
    )


def unpaired(record: Record) -> Iterator[Row]:
    """Yield a row with a label for each answer: the line that the labeler drew says which are acceptable."""
    if record.acceptable is None:
        raise CannotCarryError("nobody drew the line of what is acceptable, and an order alone is no label")
    for rank, group in enumerate(record.groups()):
        for place in group:
            yield {
                "prompt": turns(record.messages),
                "completion": _assistant(record.answers[place].text),
                "label": rank < record.acceptable,
                "prompt_group": record.group,
            }


def read_unpaired(row: Row) -> Iterator[Record]:
    """Read a labelled answer: a judgement of one answer, acceptable or not."""
    label, completion = row.get("label"), row.get("completion")
    if not isinstance(label, bool):
        raise BadLineError("needs true or false as “label”.")
    text = completion if isinstance(completion, str) else reading.answer(reading.turns(completion, "completion"))
    yield Record(
        read_prompt(row.get("prompt")),
        (Answer(text),),
        ((0,),),
        acceptable=int(label),
        group=reading.optional_text(row, "prompt_group"),
    )


def prompt_only(item: Conversation) -> Row:
    """Return the row that online methods take."""
    return {"prompt": turns(item.messages), "prompt_group": item.group}


def read_prompt_only(row: Row) -> Iterator[Conversation]:
    """Read a prompt, a text or messages."""
    yield Conversation(read_prompt(row.get("prompt")), group=reading.optional_text(row, "prompt_group"))


def messages(item: Conversation) -> Row:
    """Return a demonstration as the SFT trainer takes it."""
    return {"messages": turns(item.messages) + _assistant(item.completion or ""), "prompt_group": item.group}


def read_demonstration(row: Row) -> Iterator[Conversation]:
    """Read a demonstration: the last turn of “messages”, or “completion” beside “prompt”, texts or messages."""
    group = reading.optional_text(row, "prompt_group")
    if "messages" not in row:
        completion = row.get("completion")
        text = completion if isinstance(completion, str) else reading.answer(reading.turns(completion, "completion"))
        yield Conversation(read_prompt(row.get("prompt")), text, group=group)
        return
    found = reading.turns(row.get("messages"), "messages")
    if found[-1].role != "assistant":
        raise LeftOutError("its conversation does not end on the assistant's turn.")
    yield Conversation(reading.prompt(found[:-1]), found[-1].content, group=group)


def read_prompt(value: Any) -> tuple[Message, ...]:
    """Read a prompt that is a text or messages."""
    if isinstance(value, str):
        return (Message("user", value),)
    return reading.prompt(reading.turns(value, "prompt"))
