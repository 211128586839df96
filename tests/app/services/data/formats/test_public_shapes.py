"""What other people's files look like: each peculiarity is read as it was meant, and public sets give their counts."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.services.data.formats import hh, oasst
from app.services.data.formats.catalog import FORMATS, write
from app.services.data.formats.records import LeftOutError, Loss, Record, contents
from app.services.data.imports import BadLineError

DATA = Path(__file__).parents[6] / "shared" / "data"
HH = DATA / "hh-rlhf" / "harmless-base-test.jsonl.gz"
TREES = DATA / "open-assistant" / "en_100_tree.jsonl"
USER, BOT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}


def read(name: str, row: Any) -> list[Record]:
    reader = FORMATS[name].read
    assert reader is not None
    return list(reader(row))  # type: ignore[arg-type]  # the formats here are of rankings


def texts(record: Record) -> list[list[str]]:
    return [[record.answers[place].text for place in group] for group in record.ranking]


@pytest.mark.skipif(not HH.exists(), reason="the public data are not here")
def test_hh_pairs_are_split_where_they_differ_and_five_cannot_be() -> None:
    taken, same_bytes, left_out, loss = 0, 0, Counter[str](), Loss()
    with gzip.open(HH) as file:
        for line in file:
            row = json.loads(line)
            try:
                (record,) = hh.read(row)
            except LeftOutError as error:
                left_out[str(error)] += 1
                continue
            taken += 1
            (back,) = write(FORMATS["hh"], record, loss)
            same_bytes += back == row
            assert list(hh.read(back)) == [record]
    assert left_out == {"its two conversations differ before their last turn.": 5}
    # Four hold a turn of one space; an empty turn is written without the space that stands before a text.
    assert (taken, same_bytes) == (2307, 2303)
    assert (loss.rows, loss.sentences()) == (2307, [])


@pytest.mark.skipif(not TREES.exists(), reason="the public data are not here")
def test_open_assistant_trees_hold_212_rankings_that_are_754_pairs() -> None:
    def rankings() -> Iterator[Record]:
        for line in TREES.read_bytes().splitlines():
            try:
                yield from oasst.read(json.loads(line))
            except LeftOutError:
                continue

    found = list(rankings())
    assert Counter(len(record.answers) for record in found) == {2: 57, 3: 117, 4: 27, 5: 3, 6: 6, 8: 1, 9: 1}
    assert len(found) == 212
    loss, pairs = Loss(), Loss()
    again = [
        record
        for first in found
        for row in write(FORMATS["oasst"], first, loss)
        for record in oasst.read(json.loads(json.dumps(row)))
    ]
    assert again == found
    assert loss.sentences() == []
    assert sum(len(write(FORMATS["trl"], record, pairs)) for record in found) == 754
    names = sum(bool(answer.model) for record in found for answer in record.answers)
    people = sum(answer.source == "human" for record in found for answer in record.answers)
    assert pairs.dropped == {"models": names, "sources": people, "ties": 0}


def test_hh_conversations_of_several_turns_share_their_beginning() -> None:
    begin = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
    (record,) = read("hh", {"chosen": f"{begin} So.", "rejected": f"{begin} No."})
    assert [message.content for message in record.messages] == ["Hi", "Hello", "Why?"]
    assert texts(record) == [["So."], ["No."]]
    with pytest.raises(BadLineError):
        read("hh", {"chosen": "Hello", "rejected": f"{begin} No."})


def test_a_ranking_that_its_labeler_called_not_rankable_is_no_ranking() -> None:
    replies = [{"message_id": name, "role": "assistant", "text": name, "replies": []} for name in "abc"]
    good = {"type": "ranking", "user_id": "u1", "ranking": [2, 0, 1], "ranked_message_ids": ["c", "a", "b"],
            "not_rankable": None}  # fmt: skip
    bad = good | {"user_id": "u2", "ranked_message_ids": ["a", "b", "c"], "not_rankable": True}
    prompt = {"message_id": "p", "role": "prompter", "text": "Why?", "replies": replies,
              "events": {"ranking": [good, bad]}}  # fmt: skip
    (record,) = read("oasst", {"message_tree_id": "p", "prompt": prompt})
    assert (texts(record), record.labeler) == ([["c"], ["a"], ["b"]], "u1")
    prompt["events"] = {"ranking": [bad]}
    with pytest.raises(LeftOutError):
        read("oasst", {"message_tree_id": "p", "prompt": prompt})


def test_an_open_assistant_reply_without_a_rank_takes_no_part() -> None:
    replies = [
        {"message_id": name, "role": "assistant", "text": name, "rank": rank, "replies": []}
        for name, rank in (("a", 1), ("b", None), ("c", 0))
    ]
    (record,) = read("oasst", {"message_id": "p", "role": "prompter", "text": "Why?", "replies": replies})
    assert texts(record) == [["c"], ["a"]]
    assert contents(record)["unranked"] == 0


@pytest.mark.parametrize("winner", ["both_bad", "tie (bothbad)"])
def test_both_spellings_of_both_bad_are_a_tie_above_which_the_line_stands(winner: str) -> None:
    row = {"model_a": "m", "model_b": "n", "winner": winner, "conversation_a": [USER, BOT],
           "conversation_b": json.dumps([USER, {**BOT, "content": [{"type": "text", "text": "No."}]}])}  # fmt: skip
    (record,) = read("arena", row)
    assert (texts(record), record.acceptable) == ([["So.", "No."]], 0)
    assert [answer.model for answer in record.answers] == ["m", "n"]
    assert read("arena", row | {"winner": "tie"})[0].acceptable is None
    assert texts(read("arena", row | {"winner": "model_b"})[0]) == [["No."], ["So."]]
    with pytest.raises(BadLineError):
        read("arena", row | {"winner": "draw"})


def test_votes_of_fastchats_log_are_read_and_its_other_lines_left_out() -> None:
    states = [
        {"offset": 1, "messages": [["System", "x"], ["USER", "Why?"], ["ASSISTANT", text]]} for text in ("So.", "No.")
    ]
    row = {"tstamp": 1.0, "type": "rightvote", "models": ["m", "n"], "states": states, "ip": "192.0.2.1"}
    (record,) = read("arena", row)
    assert texts(record) == [["No."], ["So."]]
    assert read("arena", row | {"type": "bothbad_vote"})[0].acceptable == 0
    with pytest.raises(LeftOutError):
        read("arena", row | {"type": "chat"})


def test_ultrafeedback_ratings_are_texts_and_an_overall_score_of_ten_is_not_believed() -> None:
    def completion(text: str, fine: float | None, overall: float, *ratings: str) -> dict[str, Any]:
        names = ("helpfulness", "honesty", "instruction_following", "truthfulness")
        annotations = {name: {"Rating": rating} for name, rating in zip(names, ratings, strict=False)}
        return {"model": text, "response": text, "annotations": annotations, "overall_score": overall} | (
            {} if fine is None else {"fine-grained_score": fine}
        )

    row = {"source": "s", "instruction": "Why?", "completions": [
        completion("bad", 1.25, 10, "1", "1", "2", "1"), completion("good", 4.5, 8, "5", "4", "N/A", "4"),
        completion("as good", None, 10, "5", "4", "5", "4")]}  # fmt: skip
    (record,) = read("ultrafeedback", row)
    assert texts(record) == [["good", "as good"], ["bad"]]
    assert record.judgements[1] == {"helpfulness": 5, "honesty": 4, "truthfulness": 4}
    row["completions"].append(completion("unknown", None, 10))  # type: ignore[attr-defined]  # it is a list
    with pytest.raises(LeftOutError):
        read("ultrafeedback", row)


def test_helpsteer_gives_each_person_their_strength_and_reason() -> None:
    row = {"context": [USER], "response1": "So.", "response2": "No.", "overall_preference": -2,
           "individual_preference": [{"score": -3, "reasoning": "r1"}, {"score": 1, "reasoning": "r2"},
                                     {"score": 0, "reasoning": ""}]}  # fmt: skip
    first, second, third = read("helpsteer3", row)
    assert (texts(first), first.strengths, first.reason) == ([["So."], ["No."]], (3,), "r1")
    assert (texts(second), second.strengths) == ([["No."], ["So."]], (1,))
    assert (texts(third), third.strengths) == ([["So.", "No."]], None)
    assert len({first.labeler, second.labeler, third.labeler}) == 3
    (overall,) = read("helpsteer3", row | {"individual_preference": []})
    assert (texts(overall), overall.strengths) == ([["So."], ["No."]], (2,))
    with pytest.raises(BadLineError):
        read("helpsteer3", row | {"individual_preference": [{"score": 4}]})


def test_argilla_is_read_in_its_three_shapes() -> None:
    base = {"prompt": "Why?", "reply-1": "a", "reply-2": "b", "reply-3": "c"}
    ranked = [{"rank": 1, "value": "reply-2"}, {"rank": 1, "value": "reply-1"}, {"rank": 3, "value": "reply-3"}]
    more = {"ranking.responses.users": ["u", "v"], "ranking.responses.status": ["submitted", "draft"]}
    (server,) = read("argilla", base | {"ranking.responses": [ranked, []]} | more)
    assert (texts(server), server.labeler) == ([["b", "a"], ["c"]], "u")
    (sdk,) = read("argilla", base | {"ranking.responses": [["reply-3", "reply-1", "reply-2"], []]} | more)
    assert texts(sdk) == [["c"], ["a"], ["b"]]
    value = {"rank": [2, 1, 2], "value": ["reply-1", "reply-2", "reply-3"]}
    (old,) = read("argilla", base | {"q": [{"user_id": "w", "value": value, "status": "submitted"}]})
    assert (texts(old), old.labeler) == ([["b"], ["a", "c"]], "w")


def test_label_studio_lists_buckets_and_skips() -> None:
    def task(*annotations: Any) -> dict[str, Any]:
        items = [{"id": name, "title": "", "body": name.upper()} for name in ("mdn", "wiki", "blog")]
        return {"id": 1, "data": {"prompt": "Why?", "results": items}, "annotations": list(annotations)}

    def ranker(value: Any, **more: Any) -> dict[str, Any]:
        part = {"from_name": "rank", "to_name": "results", "type": "ranker", "value": {"ranker": value}}
        return {"completed_by": 7, "result": [part], "was_cancelled": False, **more}

    skip = ranker(["mdn"], was_cancelled=True)
    first, second = read(
        "label-studio-ranker",
        task(ranker(["wiki", "mdn", "blog"]), skip, ranker({"best": ["mdn", "blog"], "ads": ["wiki"]})),
    )
    assert (texts(first), first.labeler) == ([["WIKI"], ["MDN"], ["BLOG"]], "7")
    assert texts(second) == [["MDN", "BLOG"], ["WIKI"]]
    with pytest.raises(LeftOutError):
        read("label-studio-ranker", task(skip))
    with pytest.raises(BadLineError):
        read("label-studio-ranker", task(ranker(["other"])))


def test_a_trl_pair_may_be_texts_or_conversations_with_or_without_its_prompt() -> None:
    other = {**BOT, "content": "No."}
    for row in (
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        {"prompt": [USER], "chosen": [BOT], "rejected": [other]},
        {"chosen": [USER, BOT], "rejected": [USER, other]},
        {"prompt": "Why?", "chosen": [USER, BOT], "rejected": [USER, other], "margin": 0.0},
    ):
        (record,) = read("trl", row)
        assert (texts(record), record.messages[0].content) == ([["So."], ["No."]], "Why?")
    with pytest.raises(BadLineError):
        read("trl", {"chosen": "So.", "rejected": "No."})
