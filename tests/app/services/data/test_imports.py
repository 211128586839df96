"""Reading prompt files: every hostile line is named by its number, and what is fine is read exactly."""

from __future__ import annotations

import itertools
import json
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.data.imports import MAX_LINE_BYTES, SHOWN_PROBLEMS, Format, read_prompts
from trainer.records import Message

GOOD = '{"messages": [{"role": "user", "content": "Hello"}]}'


def read(content: str | bytes, file_format: Format = "auto"):
    return read_prompts(BytesIO(content.encode() if isinstance(content, str) else content), file_format)


def chat(*messages: tuple[str, object]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]})


def test_json_lines_hold_conversations_or_single_prompts() -> None:
    reading = read(
        chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?"))
        + '\r\n\n{"prompt": "Line\\nbreak", "source": "forum"}\n'
        + '{"prompt": [{"role": "user", "content": "As messages"}]}\n'
    )
    assert reading.problems == []
    assert reading.conversations == [
        (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Why?")),
        (Message("user", "Line\nbreak"),),
        (Message("user", "As messages"),),
    ]
    assert reading.ignored_keys == {"source"}


def test_plain_text_is_one_prompt_a_line() -> None:
    reading = read("Why is the sky blue?\r\n\n  What\u2028now?  \n{ is a brace\nlast")
    assert [messages[0].content for messages in reading.conversations] == [
        "Why is the sky blue?",
        "What\u2028now?",
        "{ is a brace",
        "last",
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_prompt() -> None:
    assert read(b"\xef\xbb\xbf" + GOOD.encode()).conversations == [(Message("user", "Hello"),)]


def test_the_chosen_format_wins_over_the_detected_one() -> None:
    assert read(GOOD, "text").conversations == [(Message("user", GOOD),)]
    assert read("Why?", "jsonl").problems == ["Line 1 is not valid JSON: expecting value at column 1."]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not valid JSON"),
        ('{"prompt": "a"} {"prompt": "b"}', "is not valid JSON: extra data"),
        ("[1]", "is not a JSON object"),
        ('"text"', "is not a JSON object"),
        ("{}", "needs either “messages” or “prompt”"),
        ('{"prompt": "a", "messages": []}', "needs either “messages” or “prompt”"),
        ('{"messages": []}', "needs a non-empty list"),
        ('{"messages": {"role": "user"}}', "needs a non-empty list"),
        ('{"prompt": []}', "needs a non-empty list as “prompt”"),
        ('{"prompt": 3}', "without text"),
        ('{"prompt": null}', "without text"),
        ('{"prompt": "  "}', "without text"),
        ('{"prompt": "a", "prompt": "b"}', "gives the key “prompt” twice"),
        ('{"messages": [{"role": "user", "role": "system", "content": "a"}]}', "gives the key “role” twice"),
        ('{"prompt": "a", "x": NaN}', "holds NaN, which is not JSON"),
        ('{"prompt": "a", "x": -Infinity}', "holds -Infinity, which is not JSON"),
        ('{"prompt": "a", "x": %s}' % ("9" * 5000), "number that is too long"),
        ('{"prompt": "a\\u0000b"}', "NUL character"),
        ('{"prompt": "a\x00b"}', "NUL character"),
        ('{"prompt": "\\ud800"}', "half of a surrogate pair"),
        ('{"prompt": "a", "x": %s}' % ("[" * 40 + "]" * 40), "nested more than 32 levels"),
        ("[" * 100_000, "nested more than 32 levels"),
        (chat(("user", "a"), ("assistant", "b")), "must end on the user's turn"),
        (chat(("tool", "a")), "role is not one of system, user, assistant"),
        (chat(("user", "a"), ("system", "b"), ("user", "c")), "system message that is not the first"),
        (chat(("user", ["a"])), "without text"),
        ('{"messages": [{"role": "user", "content": "a", "name": "Kim"}]}', "not just a “role” and a “content”"),
        ('{"messages": ["hello"]}', "not just a “role” and a “content”"),
        (chat(*[("user", "a")] * 1001), "more than 1,000 messages"),
    ],
    ids=itertools.count(1),  # some of the lines are longer than a name should be
)
def test_a_bad_line_is_named_by_number_and_reason(line: str, reason: str) -> None:
    reading = read(f"{GOOD}\n{line}\n{GOOD}\n", "jsonl")
    assert len(reading.conversations) == 2
    (problem,) = reading.problems
    assert problem.startswith("Line 2 ")
    assert reason in problem
    assert problem.endswith(".")


def test_bytes_that_are_no_utf8_are_named_by_line_and_byte() -> None:
    assert read(b"fine\nna\xefve\n").problems == ["Line 2 is not valid UTF-8 (byte 3)."]


def test_a_line_over_the_limit_is_one_problem_and_the_next_line_is_read() -> None:
    longest = "x" * (MAX_LINE_BYTES - 1)
    reading = read(f"{longest}\nx{longest}x\n{'y' * 3 * MAX_LINE_BYTES}\nshort\n", "text")
    assert [len(messages[0].content) for messages in reading.conversations] == [MAX_LINE_BYTES - 1, 5]
    assert reading.problems == ["Line 2 is longer than 1 MiB.", "Line 3 is longer than 1 MiB."]


def test_too_many_lines_end_the_reading() -> None:
    assert read("a\n" * 100_000, "text").problem_count == 0
    reading = read("a\n" * 100_001, "text")
    assert reading.problems == ["The file has more than 100,000 lines; split it into several."]


def test_all_problems_are_counted_and_the_first_are_told() -> None:
    reading = read("{\n" * 700, "jsonl")
    assert (reading.problem_count, len(reading.problems)) == (700, SHOWN_PROBLEMS)
    assert reading.problems[-1].startswith("Line 50 ")


def test_a_json_array_is_told_apart_from_text() -> None:
    (problem,) = read(f"[{GOOD},\n{GOOD}]").problems
    assert "Write one JSON object a line" in problem
    assert read("[sic] is a word", "text").problem_count == 0


@pytest.mark.parametrize("content", ["", "\n \r\n\t\n", "\ufeff"])
def test_an_empty_file_is_a_problem(content: str) -> None:
    assert read(content).problems == ["There is no prompt in it; paste some lines or choose a file."]


@given(st.binary(max_size=400))
def test_no_bytes_make_the_reader_fail(content: bytes) -> None:
    for file_format in ("auto", "jsonl", "text"):
        reading = read(content, file_format)
        for messages in reading.conversations:
            for message in messages:
                message.content.encode()
                assert "\x00" not in message.content


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["messages", "role", "content", "prompt", "x"]), inner)
        ),
    )
)
def test_no_json_makes_the_reader_fail(value: object) -> None:
    reading = read(json.dumps(value), "jsonl")
    assert bool(reading.conversations) != bool(reading.problem_count)
