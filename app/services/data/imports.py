"""Reading a file of prompts: bounded, strict, and all or nothing. No database here; `prompts` stores what was read.

    jsonl   one object a line: {"messages": [{"role": "user", "content": "…"}, …]} or {"prompt": "…"}, which may be
            messages too (TRL's prompt-only shapes), and if need be "tags": ["lang:de", …] beside it
    text    one prompt a line

A line is at most 1 MiB and a file at most 100,000 lines, strict UTF-8 (a byte order mark is fine). Every line that
cannot be taken is reported with its number, so that a file is mended in one go.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from app.errors import InvalidInputError
from app.services.projects import tags
from trainer.records import ROLES, Message

Format = Literal["auto", "jsonl", "text"]
FORMATS: tuple[Format, ...] = ("auto", "jsonl", "text")

MAX_LINE_BYTES = 1 << 20
MAX_LINES = 100_000
MAX_DEPTH = 32
MAX_MESSAGES = 1_000
SHOWN_PROBLEMS = 50

BOM = b"\xef\xbb\xbf"


class BadLineError(ValueError):
    """One line cannot be taken; the text says why, as the end of a sentence that starts with the line's number."""


@dataclass
class Reading:
    """What a file held: its conversations in order, and what is wrong with it (the first problems and their count).

    `tags` holds those of each conversation, in the same order.
    """

    conversations: list[tuple[Message, ...]] = field(default_factory=list)
    tags: list[list[str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    ignored_keys: set[str] = field(default_factory=set)

    def note(self, problem: str) -> None:
        """Count a problem and keep its text while there are few."""
        self.problem_count += 1
        if len(self.problems) < SHOWN_PROBLEMS:
            self.problems.append(problem)


def read_prompts(file: BinaryIO, file_format: Format = "auto") -> Reading:
    """Read a file of prompts; problems are in the result, never raised. Memory holds one line and the result."""
    reading = Reading()
    for number, raw in lines(file):
        if number > MAX_LINES:
            reading.note(f"The file has more than {MAX_LINES:,} lines; split it into several.")
            break
        if len(raw) > MAX_LINE_BYTES:
            reading.note(f"Line {number} is longer than 1 MiB.")
            continue
        line = raw.strip(b" \t\r\n")
        if not line:
            continue
        if file_format == "auto":
            if line.startswith(b"["):
                reading.note(
                    f"Line {number} starts with “[”, like a JSON array. Write one JSON object a line, "
                    "or choose “plain text” if this is text."
                )
                break
            file_format = "jsonl" if line.startswith(b"{") else "text"
        try:
            text = decoded(line)
            messages, tagged = (
                ((Message("user", text),), []) if file_format == "text" else _conversation(text, reading.ignored_keys)
            )
        except BadLineError as error:
            reading.note(f"Line {number} {error}")
        else:
            reading.conversations.append(messages)
            reading.tags.append(tagged)
    if not reading.conversations and not reading.problem_count:
        reading.note("There is no prompt in it; paste some lines or choose a file.")
    return reading


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line); of a line over the limit one byte more than allowed is kept and the rest passed over."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(BOM)
        if not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
        yield number, line


def decoded(line: bytes) -> str:
    """Return the line as text; raise `BadLineError` when it is no UTF-8 or holds a NUL."""
    try:
        text = line.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        raise BadLineError(f"is not valid UTF-8 (byte {error.start + 1}).") from None
    if "\x00" in text:
        raise BadLineError("holds a NUL character.")
    return text


def _conversation(text: str, ignored_keys: set[str]) -> tuple[tuple[Message, ...], list[str]]:
    """Return the conversation of one JSON line and its tags; keys that have no meaning here are collected."""
    value = parsed(text)
    if not isinstance(value, dict):
        raise BadLineError("is not a JSON object.")
    if ("messages" in value) == ("prompt" in value):
        raise BadLineError("needs either “messages” or “prompt”.")
    used = "messages" if "messages" in value else "prompt"
    is_text = used == "prompt" and not isinstance(value[used], list)
    items = [{"role": "user", "content": value[used]}] if is_text else value[used]
    if not isinstance(items, list) or not items:
        raise BadLineError(f"needs a non-empty list as “{used}”.")
    if len(items) > MAX_MESSAGES:
        raise BadLineError(f"has more than {MAX_MESSAGES:,} messages.")
    messages = tuple(_message(item, first=index == 0) for index, item in enumerate(items))
    if messages[-1].role != "user":
        raise BadLineError("must end on the user's turn.")
    ignored_keys.update(sorted(value.keys() - {used, "tags"})[: MAX_DEPTH - len(ignored_keys)])
    return messages, _tags(value.get("tags", []))


def _tags(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise BadLineError("has “tags” that are not a list of texts.")
    try:
        return tags.normal(value)
    except InvalidInputError as error:
        raise BadLineError(f"has tags that cannot be used. {error.message}") from None


def _message(item: Any, *, first: bool) -> Message:
    if not isinstance(item, dict) or item.keys() != {"role", "content"}:
        raise BadLineError("has a message that is not just a “role” and a “content”.")
    role, content = item["role"], item["content"]
    if role not in ROLES:
        raise BadLineError(f"has a message whose role is not one of {', '.join(ROLES)}.")
    if role == "system" and not first:
        raise BadLineError("has a system message that is not the first.")
    if not isinstance(content, str) or not content.strip():
        raise BadLineError(f"has a message of role {role} without text.")
    if "\x00" in content:
        raise BadLineError("holds a NUL character.")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise BadLineError("holds half of a surrogate pair, which is no character.") from None
    return Message(role, content)


def parsed(text: str) -> Any:
    """Return the JSON value of a line; raise `BadLineError` when it is none or is one that may mean two things."""
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise BadLineError(f"is nested more than {MAX_DEPTH} levels deep.")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise BadLineError(f"is not valid JSON: {error.msg.lower()} at {line}column {error.colno}.") from None
    except BadLineError:
        raise
    except ValueError:  # an integer with thousands of digits
        raise BadLineError("holds a number that is too long.") from None


def _depth(text: str) -> int:
    """Return the deepest nesting of brackets outside strings, so that the parser never sees what would overwhelm it."""
    deepest = depth = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            in_string, escaped = escaped or character != '"', not escaped and character == "\\"
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                return deepest
        elif character in "]}":
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadLineError(f"gives the key “{twice[:40]}” twice.")
    return value


def _no_constant(name: str) -> Any:
    raise BadLineError(f"holds {name}, which is not JSON.")
