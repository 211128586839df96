"""The editor of questions: what is typed is read, what is stored is filled in again, what is wrong has a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInputError
from app.services.projects import question_forms
from app.services.projects.questions import MAX_CRITERIA, PRESETS, STANDARD, Criterion, Questions

FORM = {
    "strength": "required",
    "reason": "off",
    "line": "yes",
    "rank_at_least": "2",
    "criterion_1_label": "  Is it   right? ",
    "criterion_1_kind": "scale",
    "criterion_1_required": "yes",
    "criterion_1_low": "wrong",
    "criterion_1_high": "right",
    "criterion_2_label": "",
    "criterion_2_kind": "scale",
    "criterion_3_label": "Rude",
    "criterion_3_kind": "yes_no",
    "criterion_3_key": "Impolite",
    "criterion_3_low": "left over from a scale",
}


def test_a_form_becomes_questions_and_empty_rows_are_passed_over() -> None:
    assert question_forms.read(FORM) == Questions(
        strength="required",
        line=True,
        rank_at_least=2,
        reason="off",
        edits=False,
        criteria=(
            Criterion(key="is_it_right", label="Is it right?", kind="scale", required=True, low="wrong", high="right"),
            Criterion(key="impolite", label="Rude", kind="yes_no"),
        ),
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"strength": "sometimes"}, "Choose whether the strength is asked"),
        ({"reason": ""}, "Choose whether the reason is asked"),
        ({"rank_at_least": "9"}, "Rank at least is a number from 1 to 8"),
        ({"criterion_1_kind": "stars"}, "Choose how “Is it right\\?” is answered"),
        ({"criterion_1_key": "1st"}, "Give “Is it right\\?” a key of small letters"),
        ({"criterion_1_label": "是否正确", "criterion_1_key": ""}, "Give “是否正确” a key"),
        ({"criterion_3_key": "is_it_right"}, "Two criteria have the key “is_it_right”"),
        ({"criterion_1_label": "x" * 121}, "Shorten “x+”"),
        ({"criterion_1_low": "x" * 41}, "Shorten “Is it right\\?”"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(changes: dict[str, str], sentence: str) -> None:
    question_forms.read(FORM)
    with pytest.raises(InvalidInputError, match=sentence):
        question_forms.read({**FORM, **changes})


words = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Z")), min_size=1, max_size=20)
criteria = st.builds(
    Criterion,
    key=st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True),
    label=words,
    kind=st.sampled_from(["yes_no", "text"]),
    required=st.booleans(),
) | st.builds(
    Criterion,
    key=st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True),
    label=words,
    kind=st.just("scale"),
    low=words | st.just(""),
    high=words | st.just(""),
)


@given(
    st.builds(
        Questions,
        strength=st.sampled_from(["off", "optional", "required"]),
        line=st.booleans(),
        rank_at_least=st.none() | st.integers(1, 8),
        reason=st.sampled_from(["off", "optional", "required"]),
        edits=st.booleans(),
        criteria=st.lists(criteria, max_size=MAX_CRITERIA, unique_by=lambda item: item.key).map(tuple),
    )
)
def test_questions_filled_into_the_form_are_read_again_as_they_were(asked: Questions) -> None:
    fields = question_forms.filled(asked)
    assert all(map(question_forms.is_field, fields))
    assert question_forms.read(fields) == asked
    assert question_forms.rows_shown(fields) == min(MAX_CRITERIA, len(asked.criteria) + question_forms.BLANK_ROWS)


def test_a_preset_replaces_the_criteria_and_nothing_else() -> None:
    filled = question_forms.with_preset(FORM, "hhh")
    assert question_forms.read(filled) == question_forms.read(FORM).model_copy(update={"criteria": PRESETS["hhh"][1]})
    assert question_forms.read(question_forms.filled(STANDARD)) == STANDARD
    with pytest.raises(InvalidInputError, match="presets"):
        question_forms.with_preset(FORM, "all")


def test_a_row_beyond_the_last_is_no_field_of_the_form() -> None:
    assert question_forms.is_field("criterion_24_label")
    assert not any(map(question_forms.is_field, ("criterion_25_label", "criterion_1_x", "criterion_01_label", "k")))
    assert question_forms.rows_shown({}, wanted=99) == MAX_CRITERIA
