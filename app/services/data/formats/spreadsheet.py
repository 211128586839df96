"""CSV for spreadsheets: one row for each ranked answer. Rows of one judgement follow one another under one id.

A cell that a spreadsheet would take for a formula gets an apostrophe in front, which reading takes away again. A prompt
of one user's turn is written as its text, a longer conversation as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict

from app.services.data.formats import reading
from app.services.data.formats.records import STRONGEST, Answer, CannotCarryError, Record, Row
from app.services.data.imports import BadLineError
from trainer.records import Message

COLUMNS = (
    "id", "prompt_group", "labeler", "judge", "prompt", "answer", "answers", "text", "source", "model", "rank",
    "strength", "acceptable", "judgements", "reason",
)  # fmt: skip

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def write(record: Record) -> Iterator[Row]:
    """Yield a row of texts for each answer; `strength` says how much better its rank is than the next one."""
    if not record.id:
        raise CannotCarryError("it has no id, by which its rows are known")
    ranks = {place: rank for rank, group in enumerate(record.ranking) for place in group}
    strengths = record.strengths or ()
    for place, answer in enumerate(record.answers):
        rank = ranks.get(place)
        strength = strengths[rank] if rank is not None and rank < len(strengths) else None
        judged = record.judgements.get(place)
        cells = (
            record.id, record.group, record.labeler, record.judge, _prompt(record.messages), str(place + 1),
            str(len(record.answers)), answer.text, answer.source, answer.model, "" if rank is None else str(rank + 1),
            "" if strength is None else str(strength), "" if record.acceptable is None else str(record.acceptable),
            json.dumps(judged, ensure_ascii=False) if judged else "", record.reason,
        )  # fmt: skip
        yield {name: guarded(cell) for name, cell in zip(COLUMNS, cells, strict=True)}


def read(rows: list[Row]) -> Iterator[Record]:
    """Read the rows of one judgement."""
    first = rows[0]
    answers: list[Answer] = []
    judgements: dict[int, dict[str, int | bool | str]] = {}
    groups: dict[int, list[int]] = {}
    strengths: dict[int, int] = {}
    if len(rows) != _whole(first, "answers", 1, 1000) or [_cell(row, "answer") for row in rows] != [
        str(place + 1) for place in range(len(rows))
    ]:
        raise BadLineError("begins a judgement whose answers are not all there, one after the other.")
    for place, row in enumerate(rows):
        source = _cell(row, "source") or "model"
        if source not in ("model", "human", "edit"):
            raise BadLineError("needs model, human or edit as “source”.")
        answers.append(Answer(_cell(row, "text"), source, _cell(row, "model")))  # type: ignore[arg-type]  # one of three
        if _cell(row, "rank"):
            rank = _whole(row, "rank", 1, len(rows))
            groups.setdefault(rank, []).append(place)
            if _cell(row, "strength"):
                strengths[rank] = _whole(row, "strength", 1, STRONGEST)
        if judged := _cell(row, "judgements"):
            judgements[place] = _judged(judged)
    ranks = sorted(groups)
    said = tuple(strengths.get(rank) for rank in ranks[:-1])
    judge = _cell(first, "judge") or "human"
    if judge not in ("human", "simulated", "ai"):
        raise BadLineError("needs human, simulated or ai as “judge”.")
    yield Record(
        _messages(_cell(first, "prompt")),
        tuple(answers),
        tuple(tuple(groups[rank]) for rank in ranks),
        said if any(item is not None for item in said) else None,
        _whole(first, "acceptable", 0, len(ranks)) if _cell(first, "acceptable") else None,
        judgements,
        _cell(first, "reason"),
        _cell(first, "labeler"),
        judge,  # type: ignore[arg-type]  # one of three
        id=_cell(first, "id"),
        group=_cell(first, "prompt_group"),
    )


def guarded(cell: str) -> str:
    """Return the cell so that no spreadsheet runs it as a formula."""
    return "'" + cell if _FORMULA.match(cell) else cell


def _cell(row: Row, name: str) -> str:
    cell = row.get(name)
    if not isinstance(cell, str):
        raise BadLineError(f"has no cell for the column “{name}”.")
    return cell.removeprefix("'") if cell.startswith("'") and _FORMULA.match(cell) else cell


def _whole(row: Row, name: str, low: int, high: int) -> int:
    cell = _cell(row, name)
    value = int(cell) if cell.isdecimal() and len(cell) < len("10000") else low - 1
    if not low <= value <= high:
        raise BadLineError(f"needs a whole number from {low} to {high} as “{name}”.")
    return value


def _judged(text: str) -> dict[str, int | bool | str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not all(isinstance(item, int | bool | str) for item in value.values()):
        raise BadLineError("needs an object of numbers, yes or no, and texts as “judgements”.")
    return value


def _prompt(messages: tuple[Message, ...]) -> str:
    if len(messages) == 1 and messages[0].role == "user" and not messages[0].content.startswith("["):
        return messages[0].content
    return json.dumps([asdict(message) for message in messages], ensure_ascii=False)


def _messages(cell: str) -> tuple[Message, ...]:
    if not cell.startswith("["):
        return (Message("user", cell),)
    return reading.prompt(reading.turns_or_json(cell, "prompt"))
