"""Files that are one JSON array: read element by element, with the limits of lines and the element's number."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.data import arrays, import_files
from app.services.data.formats.catalog import FORMATS
from app.services.data.formats.records import Record

PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
TASK = {
    "id": 1,
    "annotations": [
        {
            "id": 1,
            "completed_by": 3,
            "result": [
                {"value": {"selected": "right"}, "id": "x", "from_name": "pw", "to_name": "left,right",
                 "type": "pairwise", "origin": "manual"}
            ],
            "was_cancelled": False,
            "ground_truth": False,
            "created_at": "2026-11-02T09:00:00Z",
            "lead_time": 12.5,
            "task": 1,
        }
    ],
    "predictions": [],
    "data": {"prompt": 'Why [is {it, "so\\', "left": "So.", "right": "It ] is } not,"},
    "meta": {},
    "project": 1,
}  # fmt: skip
"""As Label Studio's export to JSON holds it."""

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def found(content: bytes) -> list[tuple[int, bytes]]:
    return list(arrays.elements(io.BytesIO(content)))


@given(st.lists(values, max_size=6), st.sampled_from([None, 0, 3]), st.booleans(), st.integers(6, 40))
def test_each_element_comes_as_it_was_written(
    items: list[Any], indent: int | None, ascii_only: bool, size: int
) -> None:
    content = json.dumps(items, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "PIECE_BYTES", size)
        whole = found(b"\xef\xbb\xbf \n" + content + b"\r\n ")
    assert [number for number, _ in whole] == list(range(1, len(items) + 1))
    assert [json.loads(element.decode("utf-8", "surrogatepass")) for _, element in whole] == items


def records(content: bytes, name: str = "trl-text") -> tuple[list[Record], import_files.Reading]:
    reading = import_files.Reading()
    file = io.BytesIO(content)
    return list(import_files.records(file, FORMATS[name], reading)), reading


@pytest.mark.parametrize("indent", [None, 2])
def test_an_export_of_label_studio_is_read_as_it_is(indent: int | None) -> None:
    content = json.dumps([TASK, TASK | {"id": 2}], indent=indent).encode()
    for packed in (content, gzip.compress(content)):
        judged, reading = records(packed, "label-studio")
        assert (reading.problems, reading.lines) == ([], 2)
        assert [(record.labeler, record.ranking) for record in judged] == [("3", ((1,), (0,)))] * 2
        assert judged[0].messages[0].content == TASK["data"]["prompt"]  # type: ignore[index]
        assert import_files.detected(io.BytesIO(packed)) == "label-studio"


def test_what_is_wrong_is_said_by_element() -> None:
    good = json.dumps(PAIR)
    twice = '{"prompt": "a", "prompt": "b"}'
    deep = "[" * 40 + "]" * 40
    content = f'[{good}, {twice},\n{good},\n 7, {deep}, {{}}, {{\n"a": ]}}, {good}, ]'
    _, reading = records(content.encode())
    assert [problem.partition(":")[0] for problem in reading.problems] == [
        "Element 2 gives the key “prompt” twice.",
        "Element 4 is not a JSON object.",
        "Element 5 is nested more than 32 levels deep.",
        "Element 6 needs a non-empty list of messages as “chosen”.",
        "Element 7 is not valid JSON",
        "Element 9 is not valid JSON",
    ]
    assert "at line 2, column 6" in reading.problems[4]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[", "The file is not whole: its JSON array does not end. It has 0 elements."),
        (b'[{"a": "', "The file is not whole: its JSON array does not end. It has 0 elements."),
        (b"[{}}]", "Element 1 is not valid JSON: extra data at column 3."),
        (b"[] []", "The file goes on behind the end of its JSON array."),
        (b"[]" + b" " * arrays.PIECE_BYTES * 2 + b"x", "The file goes on behind the end of its JSON array."),
        (b'[{"a": "' + b"x" * (2 << 20), "Element 1 is longer than 1 MiB."),
        (b"[" + b" " * (2 << 20) + b"]", "Element 1 is longer than 1 MiB."),
        (b"[,]", "Element 1 is not valid JSON: expecting value at column 1."),
    ],
)
def test_an_array_that_is_none_is_refused_with_the_reason(content: bytes, problem: str) -> None:
    taken, reading = records(content)
    assert (taken, reading.problems[0]) == ([], problem)
    assert import_files.detected(io.BytesIO(content)) is None


def test_an_empty_array_holds_nothing_and_a_million_bad_elements_end_after_a_thousand() -> None:
    assert records(b" [ \n ] ")[1].problems == []
    content = io.BytesIO(b"[" + b"{}," * 1_000_000)
    reading = import_files.Reading()
    assert list(import_files.records(content, FORMATS["trl"], reading)) == []
    assert (reading.problem_count, len(reading.problems)) == (1_000, 50)
    assert content.tell() <= arrays.PIECE_BYTES
