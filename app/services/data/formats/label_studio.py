"""Label Studio's tasks with their annotations: `pairwise` for two answers, `ranker` for lists and buckets.

A pair is left, right, or a choice of its own for ties: tie, both good, both bad. A ranking without ties is written as a
list, one with ties as buckets from best to worst. `was_cancelled` is a skip.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.services.data.formats import reading
from app.services.data.formats.records import Answer, LeftOutError, Record, Row
from app.services.data.formats.trl import turns
from app.services.data.imports import BadLineError
from trainer.records import Message

_TIES = {None: "tie", 0: "both bad", 1: "both good"}
_LINES = {name: line for line, name in _TIES.items()}
_PAIR = ("left", "right")


def write_pairwise(record: Record) -> Iterator[Row]:
    """Yield the task of a ranking of two; `records.pair_record` makes them of larger ones."""
    if len(record.ranking) == 1 and not record.unranked():
        value = {"choices": [_TIES[record.acceptable]]}
        result = [{"from_name": "flag", "to_name": "left,right", "type": "choices", "value": value}]
    else:
        selected = _PAIR[record.ranking[0][0]]
        result = [{"from_name": "pw", "to_name": "left,right", "type": "pairwise", "value": {"selected": selected}}]
    yield _task(record, dict(zip(_PAIR, (answer.text for answer in record.answers), strict=True)), result)


def write_ranker(record: Record) -> Iterator[Row]:
    """Yield the task of a ranking of any length."""
    names = [f"answer-{place + 1}" for place in range(len(record.answers))]
    ranked: Any = [names[group[0]] for group in record.ranking]
    if any(len(group) > 1 for group in record.ranking):
        ranked = {
            f"rank-{rank}": [names[place] for place in group] for rank, group in enumerate(record.ranking, start=1)
        }
    items = [
        {"id": name, "title": answer.model, "body": answer.text}
        for name, answer in zip(names, record.answers, strict=True)
    ]
    result = [{"from_name": "rank", "to_name": "results", "type": "ranker", "value": {"ranker": ranked}}]
    yield _task(record, {"results": items}, result)


def _task(record: Record, answers: Row, result: list[Row]) -> Row:
    if record.reason:
        value = {"text": [record.reason]}
        result = [*result, {"from_name": "why", "to_name": result[0]["to_name"], "type": "textarea", "value": value}]
    return {
        "data": {"prompt": turns(record.messages), **answers},
        "meta": {"labeler": record.labeler, "prompt_group": record.group},
        "annotations": [{"result": result, "was_cancelled": False, "ground_truth": False}],
    }


def read(row: Row) -> Iterator[Record]:
    """Read one record for each annotation that is no skip."""
    data = reading.mapping(row.get("data"), "“data”")
    meta = reading.mapping(row.get("meta") or {}, "“meta”")
    begin = data.get("prompt")
    messages = (
        (Message("user", begin),) if isinstance(begin, str) else reading.prompt(reading.turns(begin, "data.prompt"))
    )
    found = False
    for item in reading.listed(row, "annotations"):
        annotation = reading.mapping(item, "each of “annotations”")
        if annotation.get("was_cancelled"):
            continue
        found = True
        answers, ranking, acceptable, reason = _judgement(data, reading.listed(annotation, "result"))
        labeler = reading.optional_text(meta, "labeler") or _person(annotation.get("completed_by"))
        group = reading.optional_text(meta, "prompt_group")
        yield Record(messages, answers, ranking, acceptable=acceptable, reason=reason, labeler=labeler, group=group)
    if not found:
        raise LeftOutError("all its annotations were skipped.")


def _person(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("id")
    return "" if value is None or isinstance(value, dict | list) else str(value)


def _judgement(data: Row, result: list[Any]) -> tuple[tuple[Answer, ...], tuple[tuple[int, ...], ...], int | None, str]:
    answers: tuple[Answer, ...] | None = None
    ranking: tuple[tuple[int, ...], ...] = ()
    acceptable, reason = None, ""
    for item in result:
        part = reading.mapping(item, "each of “result”")
        value, kind = reading.mapping(part.get("value"), "“value”"), part.get("type")
        if kind == "pairwise":
            answers, selected = _pair(data, part), value.get("selected")
            if selected not in _PAIR:
                raise BadLineError("needs left or right as “selected”.")
            ranking = ((0,), (1,)) if selected == _PAIR[0] else ((1,), (0,))
        elif kind == "choices" and (choice := (value.get("choices") or [None])[0]) in _LINES:
            answers, ranking, acceptable = _pair(data, part), ((0, 1),), _LINES[choice]
        elif kind == "ranker":
            answers, ranking = _ranked(data, str(part.get("to_name")), value.get("ranker"))
        elif kind == "textarea":
            texts = value.get("text")
            reason = "\n".join(texts) if isinstance(texts, list) and all(isinstance(t, str) for t in texts) else ""
    if answers is None:
        raise LeftOutError("an annotation in it holds neither a pairwise choice nor a ranking.")
    return answers, ranking, acceptable, reason


def _pair(data: Row, part: Row) -> tuple[Answer, ...]:
    names = [name.strip() for name in str(part.get("to_name")).split(",")]
    if len(names) != len(_PAIR):
        raise BadLineError("needs the names of both answers as “to_name” of a pairwise choice.")
    return tuple(Answer(reading.text(data, name)) for name in names)


def _ranked(data: Row, key: str, value: Any) -> tuple[tuple[Answer, ...], tuple[tuple[int, ...], ...]]:
    items = [reading.mapping(item, f"each of “{key}”") for item in reading.listed(data, key)]
    place_of = {str(item.get("id")): place for place, item in enumerate(items)}
    groups = list(value.values()) if isinstance(value, dict) else [[name] for name in value or []]
    try:
        ranking = tuple(tuple(place_of[name] for name in group) for group in groups if group)
    except (KeyError, TypeError):
        raise BadLineError("ranks an answer that its data do not hold.") from None
    named = [place for group in ranking for place in group]
    if len(set(named)) != len(named) or not named:
        raise BadLineError("ranks an answer twice, or none at all.")
    return tuple(
        Answer(reading.text(item, "body"), "model", reading.optional_text(item, "title")) for item in items
    ), ranking
