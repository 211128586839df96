"""Reading values of a line that somebody else wrote: each is what the format says, or the line is bad."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from app.services.data.formats.records import LeftOutError
from app.services.data.imports import BadLineError
from trainer.records import ROLES, Message

_ROLE_NAMES = {"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant"}


def text(row: dict[str, Any], key: str) -> str:
    """Return a text; raise `BadLineError` when there is none."""
    value = row.get(key)
    if not isinstance(value, str):
        raise BadLineError(f"needs a text as “{key}”.")
    return value


def optional_text(row: dict[str, Any], key: str) -> str:
    """Return a text, empty when the key is missing or null."""
    return "" if row.get(key) is None else text(row, key)


def listed(row: dict[str, Any], key: str) -> list[Any]:
    """Return a list; raise `BadLineError` when there is none."""
    value = row.get(key)
    if not isinstance(value, list):
        raise BadLineError(f"needs a list as “{key}”.")
    return value


def mapping(value: Any, what: str) -> dict[str, Any]:
    """Return an object; raise `BadLineError` when the value is something else."""
    if not isinstance(value, dict):
        raise BadLineError(f"needs an object as {what}.")
    return value


def whole(row: dict[str, Any], key: str, low: int, high: int) -> int:
    """Return a whole number between two others."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadLineError(f"needs a whole number from {low} to {high} as “{key}”.")
    return value


def number(value: Any) -> float | None:
    """Return a number that may be written as a text ("4", as UltraFeedback does), or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if abs(found) < float("inf") else None


def turns(value: Any, key: str) -> tuple[Message, ...]:
    """Return a list of turns; content may be a list of text parts, and roles are also known by their other names."""
    if not isinstance(value, list) or not value:
        raise BadLineError(f"needs a non-empty list of messages as “{key}”.")
    found = []
    for item in value:
        role = item.get("role") if isinstance(item, dict) else None
        role = _ROLE_NAMES.get(role, role) if isinstance(role, str) else None
        content = _content(item.get("content")) if isinstance(item, dict) else None
        if role not in ROLES or content is None:
            raise BadLineError(f"needs a role ({', '.join(ROLES)}) and a text in each message of “{key}”.")
        found.append(Message(role, content))
    return tuple(found)


def or_json(value: Any) -> Any:
    """Return the value, or what it says in JSON where it is a text: so columns hold what has no one type."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def turns_or_json(value: Any, key: str) -> tuple[Message, ...]:
    """Return a list of turns that may itself be written as a JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadLineError(f"needs messages as “{key}”, and its text is no JSON.") from None
    return turns(value, key)


def prompt(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the turns as a prompt, which ends on the user's turn and has a system message at most in front."""
    if not messages or messages[-1].role != "user":
        raise LeftOutError("its prompt does not end on the user's turn.")
    if any(message.role == "system" for message in messages[1:]):
        raise LeftOutError("its prompt has a system message that is not the first.")
    return tuple(messages)


def answer(messages: Sequence[Message]) -> str:
    """Return the text of the one assistant's turn that an answer consists of."""
    if len(messages) != 1 or messages[0].role != "assistant":
        raise LeftOutError("an answer in it is more than one turn of the assistant.")
    return messages[0].content


def split(first: Sequence[Message], second: Sequence[Message]) -> tuple[tuple[Message, ...], str, str]:
    """Return the longest common beginning of two conversations as the prompt, and the two answers after it."""
    common = 0
    while common < min(len(first), len(second)) - 1 and first[common] == second[common]:
        common += 1
    if len(first) - common != 1 or len(second) - common != 1:
        raise LeftOutError("its two conversations differ before their last turn.")
    return prompt(first[:common]), answer(first[common:]), answer(second[common:])


def _content(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        return "".join(part["text"] for part in value)
    return None
