"""What is new in the guidelines: the pieces make both texts again, and odd texts keep no server busy."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from app.services.projects import guideline_changes
from app.services.projects.guideline_changes import Piece
from app.services.projects.questions import HELPFUL_HONEST_HARMLESS, Criterion, Questions

TEXT = "Be kind.\nBe short and clear.\n"


def test_words_that_changed_together_stand_together() -> None:
    assert guideline_changes.of_text(TEXT, TEXT.replace("short and clear", "brief, never unclear")) == [
        Piece("same", "Be kind.\nBe "),
        Piece("removed", "short and clear"),
        Piece("added", "brief, never unclear"),
        Piece("same", ".\n"),
    ]


def test_equal_texts_have_no_pieces_and_distant_lines_are_left_out() -> None:
    assert guideline_changes.of_text(TEXT, TEXT) == []
    lines = "".join(f"Line {number}\n" for number in range(20))
    pieces = guideline_changes.of_text(lines + "End", lines + "The end")
    assert pieces[0] == Piece("left_out", "18 lines as before")
    assert pieces[1] == Piece("same", "Line 18\nLine 19\n")


@given(st.text("ab \n.", max_size=60), st.text("ab \n.", max_size=60))
def test_the_pieces_make_both_texts_again(before: str, after: str) -> None:
    pieces = guideline_changes.of_text(before, after)
    if "left_out" not in {piece.kind for piece in pieces} and pieces:
        assert "".join(piece.text for piece in pieces if piece.kind != "added") == before
        assert "".join(piece.text for piece in pieces if piece.kind != "removed") == after


def test_a_passage_too_long_to_compare_stands_whole_twice() -> None:
    odd = random.Random(1)
    before, after = (" ".join(odd.choice("ab") for _ in range(25_000)) for _ in range(2))
    assert guideline_changes.of_text(before, after) == [Piece("removed", before), Piece("added", after)]


def test_each_difference_in_what_is_asked_is_a_sentence() -> None:
    before = Questions(criteria=HELPFUL_HONEST_HARMLESS[:2])
    harder = HELPFUL_HONEST_HARMLESS[1].model_copy(update={"required": True})
    after = Questions(
        strength="required",
        line=False,
        rank_at_least=3,
        reason="off",
        edits=False,
        criteria=(harder, Criterion(key="rude", label="Rude", kind="yes_no")),
    )
    assert guideline_changes.of_questions(before, after) == [
        "Saying how much better an answer is, is required now.",
        "The line between acceptable and unacceptable answers is no longer asked.",
        "It is enough to rank the best 3.",
        "The reason is not asked now.",
        "Answers can no longer be improved.",
        "New: “Rude” (yes or no).",
        "No longer asked: “Helpful”.",
        "Changed: “Honest” (1 to 7, from “misleading” to “true and open”, required).",
    ]
    assert guideline_changes.of_questions(after, after) == []
