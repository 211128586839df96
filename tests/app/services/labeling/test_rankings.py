"""Rankings: what is stored is what the labeler meant, once, whatever order the answers were shown in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labeling_world import counters_are_right, make_world, rank, stored_rankings, take, task_of
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app import db
from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import Assignment, User
from app.services.labeling import rankings
from app.services.labeling.judgements import LETTERS, tie_groups

IDS = [UUID(int=number) for number in range(1, 10)]


def test_equal_ranks_are_a_tie_and_gaps_close_up() -> None:
    # A is 3, B is 1, C is 3: B alone is best, A and C share the second place.
    assert tie_groups(IDS[:3], {"A": 3, "B": 1, "C": 3}) == [[str(IDS[1])], [str(IDS[0]), str(IDS[2])]]


@given(data=st.data(), k=st.integers(2, 9))
def test_the_shown_order_never_changes_what_is_stored(data: st.DataObject, k: int) -> None:
    """The labeler judges texts: whichever letters these carry, the same judgement gives the same groups."""
    judgement = {completion: data.draw(st.integers(1, k)) for completion in IDS[:k]}
    stored = [
        tie_groups(order, {letter: judgement[completion] for letter, completion in zip(LETTERS, order, strict=False)})
        for order in (IDS[:k], data.draw(st.permutations(IDS[:k])))
    ]
    assert stored[0] == stored[1]
    best = min(judgement.values())
    assert stored[0][0] == [str(completion) for completion in IDS[:k] if judgement[completion] == best]


@given(k=st.integers(2, 9), data=st.data())
def test_every_answer_is_in_exactly_one_group(k: int, data: st.DataObject) -> None:
    ranks = {letter: data.draw(st.integers(1, k)) for letter in LETTERS[:k]}
    groups = tie_groups(IDS[:k], ranks)
    assert sorted(completion for group in groups for completion in group) == [str(item) for item in IDS[:k]]
    assert all(groups)


@pytest.mark.parametrize(
    ("ranks", "sentence"),
    [
        ({"A": 1, "B": 2}, "C has none yet"),
        ({"A": 1}, "B and C have none yet"),
        ({}, "A, B and C have none yet"),
        ({"A": 1, "B": 2, "C": 3, "D": 4}, "no answer D in this task"),
        ({"A": 1, "B": 2, "C": 0}, "answer C must be between 1 and 3"),
        ({"A": 1, "B": 2, "C": 4}, "answer C must be between 1 and 3"),
    ],
)
def test_a_ranking_that_is_none_is_refused_in_a_sentence(ranks: dict[str, int], sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        tie_groups(IDS[:3], ranks)


@pytest.fixture
def leased(database: str) -> tuple[Assignment, User]:
    world = make_world(number_of_prompts=1, overlap=1)
    assignment = take(world, world.labelers[0])
    assert assignment is not None
    return assignment, world.labelers[0]


def test_a_ranking_is_stored_with_all_that_explains_it(database: str) -> None:
    world = make_world()
    labeler = world.labelers[0]
    with db.transaction() as session:
        session.get_one(User, labeler.id).is_simulated = True
    simulated = User(id=labeler.id, role="labeler", is_simulated=True, tags=[])
    assignment = take(world, simulated)
    assert assignment is not None

    rank(assignment, simulated, A=2, B=1, C=2)

    (stored,) = stored_rankings(world)
    shown = assignment.shown_order
    assert stored.groups == [[str(shown[1])], sorted([str(shown[0]), str(shown[2])])]
    assert stored.shown_order == shown
    assert stored.guideline_version_id == assignment.guideline_version_id
    assert (stored.counted, stored.is_simulated, stored.supersedes) == (True, True, None)
    assert stored.seconds >= 0
    assert task_of(assignment).done_count == 1


def test_a_second_click_returns_the_same_ranking(leased: tuple[Assignment, User]) -> None:
    assignment, labeler = leased
    first, second = rank(assignment, labeler), rank(assignment, labeler)
    assert (first.is_replay, second.is_replay) == (False, True)
    assert task_of(assignment).done_count == 1


def test_fifty_clicks_at_once_store_one_ranking(leased: tuple[Assignment, User]) -> None:
    assignment, labeler = leased
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: rank(assignment, labeler), range(50)))
    assert sum(not answer.is_replay for answer in answers) == 1
    assert counters_are_right()


def test_the_same_submit_with_another_ranking_is_a_conflict(leased: tuple[Assignment, User]) -> None:
    assignment, labeler = leased
    rank(assignment, labeler, A=1, B=2, C=3)
    with pytest.raises(ConflictError, match="first ranking of this task is saved"):
        rank(assignment, labeler, A=3, B=2, C=1)
    # Ranks 1, 2, 3 and 2, 4, 9 would be the same judgement; 1, 1, 2 is not.
    assert rank(assignment, labeler, A=1, B=2, C=3).is_replay


def test_a_form_with_a_foreign_number_is_a_conflict_and_stores_nothing(leased: tuple[Assignment, User]) -> None:
    assignment, labeler = leased
    with pytest.raises(ConflictError, match="does not belong to the task"), db.transaction() as session:
        rankings.submit(session, assignment.id, labeler, uuid4(), {"rank_A": "1", "rank_B": "2", "rank_C": "3"})
    assert task_of(assignment).done_count == 0
    assert not rank(assignment, labeler).is_replay


def test_nobody_ranks_what_was_handed_to_somebody_else(leased: tuple[Assignment, User]) -> None:
    assignment, _ = leased
    stranger = User(id=uuid4(), is_simulated=False)
    with pytest.raises(NotFoundError):
        rank(assignment, stranger)
    assert task_of(assignment).done_count == 0


def test_stored_rankings_cannot_be_changed(leased: tuple[Assignment, User]) -> None:
    rank(*leased)
    for statement in ("UPDATE rankings SET counted = true", "DELETE FROM rankings"):
        with pytest.raises(DBAPIError, match="never changed"), db.transaction() as session:
            session.execute(text(statement))


def test_what_was_stored_can_be_shown_again_by_letter(leased: tuple[Assignment, User]) -> None:
    assignment, labeler = leased
    with db.transaction() as session:
        assert rankings.stored_fields(session, assignment) == {}
    rank(assignment, labeler, A=3, B=1, C=3)
    with db.transaction() as session:
        assert rankings.stored_fields(session, assignment) == {"rank_A": "2", "rank_B": "1", "rank_C": "2"}
