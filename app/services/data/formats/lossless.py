"""Our own lossless line (`exports.ExportedRanking`) as a record, and prompts and demonstrations beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.services.data.formats import reading
from app.services.data.formats.records import STRONGEST, Answer, Conversation, Judge, LeftOutError, Record, Row
from app.services.data.imports import BadLineError
from trainer.records import Message

_SOURCES = ("model", "human", "edit")


def record_of(line: dict[str, Any]) -> Record:
    """Return a line of our own, which is trusted, as a record."""
    place_of = {item["id"]: place for place, item in enumerate(line["completions"])}
    prompt = line["prompt"]
    return Record(
        tuple(Message(item["role"], item["content"]) for item in prompt["messages"]),
        tuple(Answer(item["text"], item["source"], item["model_version"] or "") for item in line["completions"]),
        tuple(tuple(sorted(place_of[item] for item in group)) for group in line["ranking"]),
        tuple(line["strengths"]) if line["strengths"] and any(line["strengths"]) else None,
        line["acceptable"],
        {place_of[item]: judged for item, judged in line["judgements"].items() if judged and item in place_of},
        line["reason"],
        line["labeler"],
        line["judge"],
        id=line["id"],
        group=prompt["id"],
    )


def conversation_of(line: dict[str, Any]) -> Conversation:
    """Return a line of a prompt or a demonstration of our own."""
    return Conversation(
        tuple(Message(item["role"], item["content"]) for item in line["messages"]),
        line.get("completion"),
        line.get("labeler", ""),
        line.get("judge", "human"),
        id=line["id"],
        group=line["prompt_id"],
    )


def read(row: Row) -> Iterator[Record]:
    """Read a lossless line from elsewhere. What is superseded, retracted, not counted or a gold task is left out."""
    if row.get("schema_version") != 1:
        raise BadLineError("is not a line of Plackett's own export (“schema_version” 1).")
    if row.get("superseded") or row.get("retracts") or not row.get("counted") or row.get("purpose") != "collect":
        raise LeftOutError("it is superseded, taken back, not counted, or a task with a known answer.")
    prompt = reading.mapping(row.get("prompt"), "“prompt”")
    completions = [reading.mapping(item, "each of “completions”") for item in reading.listed(row, "completions")]
    place_of = {reading.text(item, "id"): place for place, item in enumerate(completions)}
    try:
        ranking = tuple(tuple(sorted(place_of[item] for item in group)) for group in reading.listed(row, "ranking"))
        judged = reading.mapping(reading.or_json(row.get("judgements")), "“judgements”")
        judgements = {place_of[key]: reading.mapping(value, "a judgement") for key, value in judged.items() if value}
    except (KeyError, TypeError):
        raise BadLineError("ranks or judges an answer that is not among its completions.") from None
    yield Record(
        reading.prompt(reading.turns(prompt.get("messages"), "messages")),
        tuple(_answer(item) for item in completions),
        ranking,
        _strengths(row),
        None if row.get("acceptable") is None else reading.whole(row, "acceptable", 0, len(ranking)),
        judgements,
        reading.text(row, "reason"),
        reading.text(row, "labeler"),
        _judge(row),
        id=reading.text(row, "id"),
        group=reading.text(prompt, "id"),
    )


def _answer(item: Row) -> Answer:
    source = item.get("source")
    if source not in _SOURCES:
        raise BadLineError("needs model, human or edit as “source” of each completion.")
    return Answer(reading.text(item, "text"), source, reading.optional_text(item, "model_version"))


def _strengths(row: Row) -> tuple[int | None, ...] | None:
    value = row.get("strengths")
    if value is None:
        return None
    if not isinstance(value, list) or any(
        item is not None and (isinstance(item, bool) or item not in range(1, STRONGEST + 1)) for item in value
    ):
        raise BadLineError("needs a list of 1, 2, 3 or null as “strengths”.")
    return tuple(value) if any(value) else None


def _judge(row: Row) -> Judge:
    judge = row.get("judge", "simulated" if row.get("simulated") else "human")
    if judge not in ("human", "simulated", "ai"):
        raise BadLineError("needs human, simulated or ai as “judge”.")
    return judge  # type: ignore[no-any-return]  # one of the three, as just checked
