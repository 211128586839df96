"""Every format both ways: what comes back is what went in, up to exactly what the loss report says."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from uuid import NAMESPACE_OID, uuid5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import ANY, conversations, records

from app.services.data.formats import detect, lossless, spreadsheet
from app.services.data.formats.catalog import FORMATS, READ, UNSAID, Format, write
from app.services.data.formats.records import (
    Answer,
    Conversation,
    Loss,
    Record,
    Row,
    contents,
    pair_record,
    pairs_of,
    stripped,
)
from trainer.records import Message

OF_RANKINGS = [item for item in FORMATS.values() if item.of == "rankings" and item.name != "plackett"]


def through_file(of: Format, rows: list[Row]) -> list[Row]:
    """The rows as a reader of the file sees them."""
    if not of.table:
        return [json.loads(json.dumps(row, ensure_ascii=False)) for row in rows]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, spreadsheet.COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    file.seek(0)
    return list(csv.DictReader(file))


def read(of: Format, rows: list[Row]) -> list[Record]:
    seen = through_file(of, rows)
    if of.table:
        return list(spreadsheet.read(seen)) if seen else []
    assert of.read is not None
    return [record for row in seen for record in of.read(row)]  # type: ignore[misc]  # rankings are read as records


def expected(of: Format, record: Record, ties: str) -> Iterator[Record]:
    """What must come back: written down apart from the code that writes and reads."""
    if of.name == "trl-unpaired":
        for rank, group in enumerate(record.groups()):
            for place in group:
                label = int(rank < record.acceptable)  # type: ignore[operator]  # such records are left out
                yield Record(record.messages, (Answer(record.answers[place].text),), ((0,),), acceptable=label)
        return
    if of.pair is None:
        kept = stripped(record, of.carries)
        if of.name in ("ultrafeedback", "oasst"):  # what nobody ranked has one score below all others
            kept = replace(kept, ranking=record.groups())
        if of.name == "oasst":  # people wrote it, be it from nothing or over another answer
            edits = (replace(item, source="human" if item.source == "edit" else item.source) for item in kept.answers)
            kept = replace(kept, answers=tuple(edits))
        if of.name == "argilla-sdk":
            kept = replace(kept, ranking=tuple((place,) for group in record.ranking for place in group))
        yield kept
        return
    for pair in pairs_of(record):
        kept = stripped(pair_record(pair), of.carries)
        if of.keeps_line is not None and of.keeps_line(pair):
            kept = replace(kept, acceptable=pair.acceptable)
        if of.name == "helpsteer3" and not pair.tie and not pair.strength:
            kept = replace(kept, strengths=(1,))
        if not pair.tie or of.has_ties or ties == "margin0":
            yield kept if not pair.tie or of.name != "hh" else replace(kept, ranking=((0,), (1,)))
        elif ties == "both":
            yield replace(kept, ranking=((0,), (1,)))
            yield replace(kept, ranking=((0,), (1,)), answers=kept.answers[::-1])


@pytest.mark.parametrize("of", OF_RANKINGS, ids=lambda item: item.name)
@settings(max_examples=25, deadline=None)
@given(record=records(), ties=st.sampled_from(["drop", "both", "margin0"]))
def test_a_record_comes_back_up_to_what_the_report_says(of: Format, record: Record, ties: str) -> None:
    loss = Loss()
    rows = write(of, record, loss, ties)  # type: ignore[arg-type]  # one of three
    if loss.left_out:
        assert not rows
        assert loss.left_out.total() == 1
        assert not loss.dropped
        return
    back = read(of, rows)
    assert back == list(expected(of, record, ties))
    assert loss.rows == len(rows)
    if of.name not in ("hh", "helpsteer3", "oasst"):  # these have no place for it
        assert {item.group for item in back} <= {record.group}
    # The report counts what the record held and the format does not.
    held = contents(record)
    lost = Counter({name: count for name, count in held.items() if name not in of.carries})
    if of.pair is not None and not of.has_ties and ties == "margin0":
        del lost["ties"]
    if of.keeps_line is not None and all(of.keeps_line(pair) for pair in pairs_of(record)):
        del lost["lines"]
    assert +loss.dropped == +lost
    strict = [pair for pair in pairs_of(record) if not pair.tie and not pair.strength]
    assert loss.noted[UNSAID] == (len(strict) if of.name == "helpsteer3" else 0)


@settings(max_examples=25, deadline=None)
@given(records())
def test_nothing_is_lost_in_our_own_line(record: Record) -> None:
    ids = [str(uuid5(NAMESPACE_OID, f"{record.id} {place}")) for place in range(len(record.answers))]
    line = {
        "schema_version": 1,
        "id": record.id,
        "prompt": {"id": record.group, "messages": [asdict(message) for message in record.messages]},
        "completions": [
            {"id": id_, "text": answer.text, "source": answer.source, "model_version": answer.model or None}
            for id_, answer in zip(ids, record.answers, strict=True)
        ],
        "ranking": [[ids[place] for place in group] for group in record.ranking],
        "strengths": None if record.strengths is None else list(record.strengths),
        "acceptable": record.acceptable,
        "judgements": {ids[place]: judged for place, judged in record.judgements.items()},
        "reason": record.reason,
        "labeler": record.labeler,
        "judge": record.judge,
        "counted": True,
        "superseded": False,
        "retracts": False,
        "purpose": "collect",
    }
    assert lossless.record_of(line) == record
    assert list(lossless.read(json.loads(json.dumps(line)))) == [record]


@settings(deadline=None)
@given(conversations(), ANY)
def test_prompts_and_demonstrations_come_back(messages: tuple, text: str) -> None:
    for name, completion in (("trl-prompts", None), ("trl-sft", text)):
        of = FORMATS[name]
        item = Conversation(messages, completion, group="p1")
        assert of.conversation is not None
        assert of.read is not None
        assert list(of.read(json.loads(json.dumps(of.conversation(item))))) == [item]


@settings(deadline=None)
@given(conversations(), ANY)
def test_a_demonstration_is_read_in_either_of_its_shapes(messages: tuple, text: str) -> None:
    demonstration = Conversation(messages, text, group="p1")
    of = FORMATS["trl-sft"]
    assert of.conversation is not None
    assert of.read is not None
    *prompt, completion = of.conversation(demonstration)["messages"]
    row = {"prompt": prompt, "completion": [completion], "prompt_group": "p1"}
    assert list(of.read(json.loads(json.dumps(row)))) == [demonstration]
    of_texts = Conversation((Message("user", text),), text, group="p1")
    assert list(of.read({"prompt": text, "completion": text, "prompt_group": "p1"})) == [of_texts]


ANSWERS = st.lists(
    st.builds(Answer, ANY, st.just("model"), ANY.filter(bool)) | st.builds(Answer, ANY, st.just("human"))
)


@settings(deadline=None)
@given(conversations(), ANSWERS)
def test_unjudged_answers_come_as_they_were_given(messages: tuple, answers: list[Answer]) -> None:
    row = {
        "messages": [asdict(message) for message in messages],
        "completions": [{"text": item.text, "model": item.model} if item.model else item.text for item in answers],
    }
    read = READ["answers"].read
    assert read is not None
    assert list(read(json.loads(json.dumps(row)))) == [Conversation(messages, answers=tuple(answers))]
    assert detect.of_row(row) == "answers"


def test_an_instruction_stands_above_what_is_put_in() -> None:
    def found(row: Row) -> list[tuple[str, str]]:
        assert detect.of_row(row) == "instructions"
        read = READ["instructions"].read
        assert read is not None
        return [(item.messages[0].content, item.completion) for item in read(row)]  # type: ignore[union-attr, misc]

    assert found({"instruction": "Sum.", "input": "", "output": "Done."}) == [("Sum.", "Done.")]
    assert found({"instruction": "Sum.", "context": "A day.", "response": "So."}) == [("Sum.\n\nA day.", "So.")]
    several = {"instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}, {"input": "1 2", "output": "3"}]}
    assert found(several) == [("Add.\n\n1 1", "2"), ("Add.\n\n1 2", "3")]


def test_the_report_is_a_sentence() -> None:
    loss = Loss(dropped=Counter(ties=214, strengths=31, reasons=1), left_out=Counter({"it is too old": 1}))
    assert loss.sentences() == [
        "214 ties, 31 strengths and 1 reason were dropped.",
        "1 ranking left out: it is too old.",
    ]
    assert Loss(dropped=Counter(ties=1)).sentences() == ["1 tie was dropped."]
    assert Loss().sentences() == []
