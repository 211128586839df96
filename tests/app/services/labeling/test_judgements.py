"""A filled-in board as a judgement: each field by hand, each refusal with its sentence, blind to the order shown."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInputError
from app.models import Ranking
from app.services.labeling.judgements import LETTERS, Judgement, as_fields, judge
from app.services.projects.questions import Criterion, Questions

IDS = [UUID(int=number) for number in range(1, 10)]
ONE, TWO, THREE = (str(item) for item in IDS[:3])
CRITERIA = (
    Criterion(key="helpful", label="Helpful", kind="scale", required=True),
    Criterion(key="rude", label="Rude", kind="yes_no"),
    Criterion(key="note", label="Note", kind="text"),
)
ALL = Questions(criteria=CRITERIA)
RANKED = {"rank_A": "1", "rank_B": "3", "rank_C": "3"}
SCALES = {f"judge_{letter}_helpful": "4" for letter in "ABC"}
PAIR = {"judge_A_helpful": "7", "judge_B_helpful": "1"}


def read(fields: dict[str, str], questions: Questions = ALL, k: int = 3) -> Judgement:
    return judge(fields, IDS[:k], questions)


def test_every_field_of_a_board_ends_up_by_the_id_of_its_answer() -> None:
    # Shown as A=1, B=2, C=3. B and C tie on the third place; the gap closes, so they are the second group.
    fields = {
        **RANKED,
        **SCALES,
        "strength_1": "2",
        "line": "1",
        "judge_B_rude": "yes",
        "judge_C_rude": "no",
        "judge_A_note": " well\r\nput ",
        "judge_B_note": "  ",
        "edit_C": " Better. ",
        "edit_A": "",
        "reason": " A is right. ",
    }
    assert read(fields) == Judgement(
        groups=[[ONE], [TWO, THREE]],
        strengths=[2],
        acceptable=1,
        answers={
            ONE: {"helpful": 4, "note": "well\nput"},
            TWO: {"helpful": 4, "rude": True},
            THREE: {"helpful": 4, "rude": False},
        },
        reason="A is right.",
        edits={THREE: "Better."},
    )


def test_the_line_counts_groups_and_not_ranks() -> None:
    # Ranks in use: 1 and 3. A line below rank 2 has one group above it, below rank 3 both, at 0 none.
    found = [read({**RANKED, **SCALES, "line": line}).acceptable for line in ("0", "1", "2", "3", "")]
    assert found == [0, 1, 1, 2, None]


def test_a_strength_stands_between_the_ranks_that_are_used() -> None:
    fields = {**SCALES, "rank_A": "1", "rank_B": "3", "rank_C": "2"}
    assert read({**fields, "strength_1": "3", "strength_2": ""}).strengths == [3, None]
    # Rank 2 is not used: what is said about it is not about any pair of groups.
    assert read({**RANKED, **SCALES, "strength_2": "1"}).strengths == [None]
    assert read({**RANKED, **SCALES}, Questions(strength="off", criteria=CRITERIA)).strengths is None
    everything_ties = {**SCALES, "rank_A": "2", "rank_B": "2", "rank_C": "2"}
    assert read(everything_ties).strengths == []


def test_a_partial_ranking_leaves_the_rest_below_all_that_is_named() -> None:
    best_two = Questions(rank_at_least=2)
    assert read({"rank_A": "", "rank_B": "1", "rank_C": "2"}, best_two).groups == [[TWO], [THREE]]
    with pytest.raises(InvalidInputError, match="Rank at least the best 2; 1 are ranked"):
        read({"rank_B": "1"}, best_two)


@pytest.mark.parametrize(
    ("choice", "groups", "strengths", "acceptable"),
    [
        ("a3", [[ONE], [TWO]], [3], None),
        ("a", [[ONE], [TWO]], [None], None),
        ("b1", [[TWO], [ONE]], [1], None),
        ("tie", [[ONE, TWO]], [], None),
        ("both_good", [[ONE, TWO]], [], 1),
        ("both_bad", [[ONE, TWO]], [], 0),
    ],
)
def test_a_choice_between_two_says_what_ranks_would(
    choice: str, groups: list[list[str]], strengths: Any, acceptable: int | None
) -> None:
    found = read({"choice": choice, **PAIR, "reason": "So."}, k=2)
    assert (found.groups, found.strengths, found.acceptable, found.reason) == (groups, strengths, acceptable, "So.")
    assert found.answers == {ONE: {"helpful": 7}, TWO: {"helpful": 1}}


STRICT = Questions(strength="required", reason="required", line=False, edits=False)


@pytest.mark.parametrize(
    ("fields", "questions", "sentence"),
    [
        ({}, ALL, "Give every answer a rank: A, B and C have none yet"),
        ({"rank_A": "1", "rank_B": "2"}, ALL, "Give every answer a rank: C has none yet"),
        ({**RANKED, "rank_D": "1"}, ALL, "There is no answer D in this task: rank the answers A to C"),
        ({**RANKED, "rank_A": "4"}, ALL, "The rank of answer A must be between 1 and 3"),
        ({**RANKED, "rank_A": "x"}, ALL, "The rank of answer A is not a number from 1 to 3"),
        ({**RANKED, "rank_A": "10"}, ALL, "The rank of answer A is not a number from 1 to 3"),
        (
            {**RANKED, **SCALES, "strength_1": "4"},
            ALL,
            "How much better rank 1 is than the next is said with 1, 2 or 3",
        ),
        ({**RANKED, "reason": "x"}, STRICT, "Say how much better rank 1 is than the next: slightly, clearly or much"),
        ({**RANKED, "strength_1": "1"}, STRICT, "Say in a few words why you judge so"),
        (
            {**RANKED, **SCALES, "line": "4"},
            ALL,
            "The line stands below a rank from 1 to 3, or above all of them with 0",
        ),
        ({**RANKED, **SCALES, "line": "-1"}, ALL, "The line stands below a rank"),
        ({**RANKED, **SCALES, "judge_B_helpful": ""}, ALL, "“Helpful” of answer B has no answer yet"),
        ({**RANKED, **SCALES, "judge_B_helpful": "8"}, ALL, "“Helpful” of answer B is a number from 1 to 7"),
        ({**RANKED, **SCALES, "judge_B_rude": "maybe"}, ALL, "“Rude” of answer B is answered with yes or no"),
        ({**RANKED, **SCALES, "judge_B_note": "x" * 2001}, ALL, "Shorten “Note” of answer B: it has 2,001 characters"),
        ({**RANKED, **SCALES, "judge_B_note": "a\x00"}, ALL, "Remove the NUL character from “Note” of answer B"),
        ({**RANKED, **SCALES, "edit_B": "x" * 20_001}, ALL, "Shorten your version of answer B"),
        ({**RANKED, **SCALES, "reason": "x" * 4001}, ALL, "Shorten the reason: it has 4,001 characters"),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_a_sentence(
    fields: dict[str, str], questions: Questions, sentence: str
) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        read(fields, questions)


@pytest.mark.parametrize(
    ("fields", "questions"),
    [
        ({"counted": "true"}, ALL),
        ({"judge_B_other": "1"}, ALL),
        ({"judge_D_helpful": "1"}, ALL),
        ({"strength_3": "1"}, ALL),
        ({"strength_1": "1"}, Questions(strength="off", criteria=CRITERIA)),
        ({"line": "1"}, Questions(line=False, criteria=CRITERIA)),
        ({"edit_A": "x"}, Questions(edits=False, criteria=CRITERIA)),
        ({"reason": "x"}, Questions(reason="off", criteria=CRITERIA)),
        ({"choice": "a"}, ALL),
    ],
)
def test_an_answer_to_a_question_that_nobody_asked_is_refused(fields: dict[str, str], questions: Questions) -> None:
    read({**RANKED, **SCALES}, questions)
    with pytest.raises(InvalidInputError, match="The form holds a field that this page does not have"):
        read({**RANKED, **SCALES, **fields}, questions)


@pytest.mark.parametrize(
    ("choice", "questions", "sentence"),
    [
        ("c", Questions(), "Choose which answer is better"),
        ("a4", Questions(), "Choose which answer is better"),
        ("a", Questions(strength="required"), "Say how much better the answer is: slightly, clearly or much"),
        ("a2", Questions(strength="off"), "a field that this page does not have"),
        ("tie", Questions(reason="required"), "Say in a few words"),
    ],
)
def test_a_choice_that_is_none_is_refused(choice: str, questions: Questions, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        read({"choice": choice}, questions, k=2)


@st.composite
def boards(draw: st.DrawFn) -> tuple[int, Questions, dict[str, str]]:
    """K, questions, and fields for the order IDS[:K] that make a judgement."""
    k = draw(st.integers(2, 9))
    questions = Questions(
        strength=draw(st.sampled_from(["off", "optional"])),
        rank_at_least=draw(st.none() | st.just(1)),
        criteria=tuple(item.model_copy(update={"required": False}) for item in CRITERIA),
    )
    values = {"helpful": st.sampled_from("1234567"), "rude": st.sampled_from(["yes", "no"]), "note": st.just("Hm.")}
    fields: dict[str, str] = {}
    for letter in LETTERS[:k]:
        if questions.rank_at_least is None or letter == "A" or draw(st.booleans()):
            fields[f"rank_{letter}"] = str(draw(st.integers(1, k)))
        for key, value in values.items():
            if draw(st.booleans()):
                fields[f"judge_{letter}_{key}"] = draw(value)
        if draw(st.booleans()):
            fields[f"edit_{letter}"] = f"Better {letter}."
    if questions.strength != "off":
        fields |= {f"strength_{n}": draw(st.sampled_from(["", "1", "2", "3"])) for n in range(1, k)}
    if draw(st.booleans()):
        fields["line"] = str(draw(st.integers(0, k)))
    if draw(st.booleans()):
        fields["reason"] = "Because."
    return k, questions, fields


def renamed(fields: dict[str, str], new_letter: dict[str, str]) -> dict[str, str]:
    found = {}
    for name, value in fields.items():
        kind, _, rest = name.partition("_")
        moves = kind in ("rank", "judge", "edit")
        found[f"{kind}_{new_letter[rest[0]]}{rest[1:]}" if moves else name] = value
    return found


@given(boards(), st.data())
def test_the_order_shown_never_changes_the_judgement_nor_its_hash(
    board: tuple[int, Questions, dict[str, str]], data: st.DataObject
) -> None:
    k, questions, fields = board
    order = data.draw(st.permutations(IDS[:k]))
    new_letter = {letter: LETTERS[order.index(item)] for letter, item in zip(LETTERS, IDS[:k], strict=False)}
    first = judge(fields, IDS[:k], questions)
    second = judge(renamed(fields, new_letter), order, questions)
    assert first == second
    assert first.sha256() == second.sha256()


@given(boards(), st.data())
def test_a_stored_judgement_fills_the_board_in_again_whatever_the_order(
    board: tuple[int, Questions, dict[str, str]], data: st.DataObject
) -> None:
    k, questions, fields = board
    made = judge({name: value for name, value in fields.items() if not name.startswith("edit_")}, IDS[:k], questions)
    order = data.draw(st.permutations(IDS[:k]))
    again = as_fields(stored(made), order)
    assert judge(again, order, questions) == made


@given(st.sampled_from(["a", "a1", "a2", "a3", "b", "b1", "b3", "tie", "both_good", "both_bad"]), st.booleans())
def test_a_stored_choice_fills_in_again(choice: str, is_swapped: bool) -> None:
    made = judge({"choice": choice}, IDS[:2], Questions())
    order = IDS[:2][::-1] if is_swapped else IDS[:2]
    fields = as_fields(stored(made), order)
    assert judge(fields, order, Questions()) == made
    if not is_swapped:
        assert fields["choice"] == choice


def stored(made: Judgement) -> Ranking:
    return Ranking(
        groups=made.groups,
        strengths=made.strengths,
        acceptable=made.acceptable,
        judgements=made.answers,
        reason=made.reason,
    )
