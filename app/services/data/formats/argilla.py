"""Argilla's rankings: the prompt, the answers as fields `reply-1` …, and each person's values with their ranks.

Two shapes are written: the server's, which keeps ties, and the SDK's, a list of values in their order. Three are read:
those two, and the one of the first FeedbackDataset. Ranks count as in sports there: 1, 1, 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from app.services.data.formats import reading
from app.services.data.formats.records import Answer, LeftOutError, Record, Row
from app.services.data.formats.trl import turns
from app.services.data.imports import BadLineError
from trainer.records import Message

QUESTION = "ranking"


def write(record: Record) -> Iterator[Row]:
    """Yield the server's shape."""
    values, rank = [], 1
    for group in record.ranking:
        values += [{"rank": rank, "value": _name(place)} for place in group]
        rank += len(group)
    yield _row(record, values)


def write_sdk(record: Record) -> Iterator[Row]:
    """Yield the SDK's shape, which knows an order and no ties: tied answers stand in their stored order."""
    yield _row(record, [_name(place) for group in record.ranking for place in group])


def _row(record: Record, values: list[Any]) -> Row:
    return {
        "id": record.id,
        "status": "completed",
        "prompt": turns(record.messages),
        **{_name(place): answer.text for place, answer in enumerate(record.answers)},
        f"{QUESTION}.responses": [values],
        f"{QUESTION}.responses.users": [record.labeler],
        f"{QUESTION}.responses.status": ["submitted"],
        "reason.responses": [record.reason],
        "metadata.prompt_group": record.group,
    }


def _name(place: int) -> str:
    return f"reply-{place + 1}"


def read(row: Row) -> Iterator[Record]:
    """Read one record for each person who submitted a ranking."""
    names = sorted((key for key in row if _is_reply(key)), key=lambda key: int(key.split("-")[1]))
    if len(names) < len(("better", "worse")):
        raise BadLineError("needs the answers as “reply-1”, “reply-2” and so on.")
    place_of = {name: place for place, name in enumerate(names)}
    answers = tuple(Answer(reading.text(row, name)) for name in names)
    begin = row.get("prompt")
    messages = (Message("user", begin),) if isinstance(begin, str) else reading.prompt(reading.turns(begin, "prompt"))
    reasons = row.get("reason.responses") or []
    judged = list(_responses(row))
    if not judged:
        raise LeftOutError("nobody has submitted a ranking of it.")
    for number, (user, values) in enumerate(judged):
        reason = reasons[number] if isinstance(reasons, list) and number < len(reasons) else ""
        yield Record(
            messages,
            answers,
            _ranking(values, place_of),
            reason=reason if isinstance(reason, str) else "",
            labeler=user,
            id=reading.optional_text(row, "id"),
            group=reading.optional_text(row, "metadata.prompt_group"),
        )


def _is_reply(key: str) -> bool:
    name, _, number = key.partition("-")
    return name in ("reply", "response") and number.isdecimal() and len(number) < len("1000")


def _responses(row: Row) -> Iterator[tuple[str, Any]]:
    question = next((key for key in row if key.endswith(".responses") and _is_ranking(row[key])), None)
    if question is not None:
        lists = row[question]
        users, states = row.get(f"{question}.users") or [], row.get(f"{question}.status") or []
        for number, values in enumerate(lists):
            if number >= len(states) or states[number] == "submitted":
                yield str(users[number]) if number < len(users) and users[number] else "", values
        return
    # The first FeedbackDataset: a column of {user_id, value: {rank: […], value: […]}, status}.
    for column in row.values():
        if not isinstance(column, list) or not all(isinstance(item, dict) and "user_id" in item for item in column):
            continue
        for item in column:
            held = item.get("value")
            if item.get("status") == "submitted" and isinstance(held, dict) and {"rank", "value"} <= held.keys():
                ranks, values = reading.listed(held, "rank"), reading.listed(held, "value")
                if len(ranks) != len(values):
                    raise BadLineError("needs as many ranks as values.")
                pairs = [{"rank": rank, "value": value} for rank, value in zip(ranks, values, strict=True)]
                yield str(item["user_id"] or ""), pairs


def _is_ranking(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, list) for item in value)


def _ranking(values: Any, place_of: dict[str, int]) -> tuple[tuple[int, ...], ...]:
    by_rank: dict[int, list[int]] = defaultdict(list)
    for number, item in enumerate(values, start=1):
        name = item.get("value") if isinstance(item, dict) else item
        rank = reading.whole(item, "rank", 0, 10_000) if isinstance(item, dict) else number
        if not isinstance(name, str) or name not in place_of:
            raise BadLineError("ranks a value that is not the name of an answer.")
        by_rank[rank].append(place_of[name])
    named = [place for places in by_rank.values() for place in places]
    if len(set(named)) != len(named):
        raise BadLineError("ranks an answer twice.")
    if not named:
        raise LeftOutError("a ranking in it is empty.")
    return tuple(tuple(by_rank[rank]) for rank in sorted(by_rank))
