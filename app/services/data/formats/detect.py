"""Which format a file has, told from its first line. Only a guess: reading the file is the test of it."""

from __future__ import annotations

from typing import Any

from app.services.data.formats import instructions, spreadsheet
from app.services.data.formats.records import Row


def of_header(line: str) -> str | None:
    """Return the format of a file that begins with this line of CSV, or None."""
    return "csv" if set(line.strip().split(",")) == set(spreadsheet.COLUMNS) else None


def of_row(row: Row) -> str | None:
    """Return the format that a row of these keys most likely has, or None."""
    return next((name for name, fits in _SIGNS if fits(row)), None)


def _has(*keys: str) -> Any:
    return lambda row: all(key in row for key in keys)


def _texts(row: Row) -> bool:
    return isinstance(row.get("chosen"), str) and isinstance(row.get("rejected"), str)


_SIGNS = (
    ("plackett", _has("schema_version", "completions", "ranking")),
    ("oasst", _has("message_tree_id", "prompt")),
    ("oasst", _has("message_id", "replies")),
    ("arena", _has("winner", "conversation_a")),
    ("arena", _has("states", "models", "type")),
    ("helpsteer3", _has("response1", "response2", "overall_preference")),
    ("ultrafeedback", _has("instruction", "completions")),
    ("ultrafeedback-binarized", _has("chosen", "rejected", "score_chosen")),
    ("hh", lambda row: _texts(row) and "prompt" not in row),
    ("trl-text", lambda row: _texts(row) and isinstance(row.get("prompt"), str)),
    ("trl", _has("chosen", "rejected")),
    ("trl-unpaired", _has("completion", "label")),
    ("trl-sft", _has("prompt", "completion")),
    ("trl-sft", lambda row: _last_role(row.get("messages")) in ("assistant", "gpt", "bot")),
    ("instructions", lambda row: "instruction" in row and not instructions.OUTPUTS.isdisjoint(row)),
    ("mt-bench", _has("question_id", "turns")),
    ("answers", lambda row: isinstance(row.get("completions"), list) and ("prompt" in row or "messages" in row)),
    ("label-studio", _has("data", "annotations")),
    ("argilla", lambda row: any(str(key).endswith(".responses") for key in row) or "responses" in row),
    (
        "argilla",
        lambda row: any(isinstance(value, list) and value and _is_response(value[0]) for value in row.values()),
    ),
    ("trl-prompts", lambda row: "prompt" in row and row.keys() <= {"prompt", "prompt_group"}),
)


def _last_role(messages: Any) -> Any:
    last = messages[-1] if isinstance(messages, list) and messages else None
    return last.get("role") if isinstance(last, dict) else None


def _is_response(value: Any) -> bool:
    return isinstance(value, dict) and {"user_id", "value"} <= value.keys()
