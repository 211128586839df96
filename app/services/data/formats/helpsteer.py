"""HelpSteer3: two answers and a number from -3 (the first is much better) over 0 (equal) to 3, with reasons."""

from __future__ import annotations

from collections.abc import Iterator

from app.services.data.formats import reading
from app.services.data.formats.records import STRONGEST, Answer, Pair, Record, Row
from app.services.data.formats.trl import turns
from app.services.data.imports import BadLineError
from trainer.records import Message


def write(pair: Pair) -> Row:
    """Return the pair. The shape has no order without a strength: what nobody said is written as slightly."""
    record = pair.record
    score = 0 if pair.tie else -min(max(pair.strength, 1), STRONGEST)
    judged = {"score": score, "reasoning": record.reason, "feedback1": "", "feedback2": ""}
    return {
        "domain": "general",
        "language": "",
        "context": turns(record.messages),
        "response1": pair.chosen.text,
        "response2": pair.rejected.text,
        "overall_preference": score,
        "individual_preference": [judged],
    }


def read(row: Row) -> Iterator[Record]:
    """Read one record for each person who judged; the overall number where the line names nobody."""
    messages = reading.prompt(reading.turns(row.get("context"), "context"))
    answers = (Answer(reading.text(row, "response1")), Answer(reading.text(row, "response2")))
    people = row.get("individual_preference") or []
    if not isinstance(people, list):
        raise BadLineError("needs a list as “individual_preference”.")
    judged = [reading.mapping(person, "each of “individual_preference”") for person in people]
    if not judged:
        yield _record(messages, answers, reading.whole(row, "overall_preference", -STRONGEST, STRONGEST), "", "")
    for number, person in enumerate(judged, start=1):
        score = reading.whole(person, "score", -STRONGEST, STRONGEST)
        labeler = f"annotator {number}" if len(judged) > 1 else ""
        yield _record(messages, answers, score, reading.optional_text(person, "reasoning"), labeler)


def _record(
    messages: tuple[Message, ...], answers: tuple[Answer, ...], score: int, reason: str, labeler: str
) -> Record:
    if score == 0:
        return Record(messages, answers, ((0, 1),), reason=reason, labeler=labeler)
    order = ((0,), (1,)) if score < 0 else ((1,), (0,))
    return Record(messages, answers, order, (abs(score),), reason=reason, labeler=labeler)
