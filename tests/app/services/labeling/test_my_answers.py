"""A labeler's own answers: the last word on each task, under which version, with figures that are theirs alone."""

from __future__ import annotations

from uuid import UUID

import pytest
from labeling_world import World, expire, make_world, rank, take
from sqlalchemy import insert, select

from app import db
from app.models import Assignment, Project, Ranking, User
from app.services.labeling import assignments, demonstrations, my_answers, rankings, tasks
from app.services.labeling.answered import next_submit_id
from app.services.projects import guidelines

pytestmark = pytest.mark.usefixtures("database")


def page(world: World, user: User, version: int | None = None, before: UUID | None = None) -> my_answers.MyAnswers:
    with db.transaction() as session:
        return my_answers.page(session, world.project_id, user, version=version, before=before)


def numbers(world: World, user: User) -> my_answers.MyNumbers:
    with db.transaction() as session:
        return my_answers.numbers(session, world.project_id, user)


def answer(world: World, user: User, **ranks: int) -> Assignment:
    taken = take(world, user)
    assert taken is not None
    rank(taken, user, **ranks)
    return taken


def change(assignment: Assignment, user: User, **fields: str) -> None:
    with db.transaction() as session:
        before = rankings.latest(session, assignment.id)
        assert before is not None
        rankings.submit(session, assignment.id, user, next_submit_id(before.id), fields)


def test_answers_stand_newest_first_each_once_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(my_answers, "PAGE_SIZE", 2)
    world = make_world(number_of_prompts=4, overlap=2)
    mine, other = world.labelers
    first, second = answer(world, mine), answer(world, mine)
    answer(world, other)
    with db.transaction() as session:
        tasks.open_demonstration_tasks(session, session.get_one(Project, world.project_id))
    writing = take(world, mine, "demonstration")
    assert writing is not None
    with db.transaction() as session:
        demonstrations.submit(session, writing.id, mine, writing.submit_id, {"text": "So."})
    taken_back = answer(world, mine)
    with db.transaction() as session:
        rankings.undo(session, taken_back.id, mine)
    change(first, mine, rank_A="2", rank_B="1", rank_C="2", edit_A="Better.")

    newest = page(world, mine)
    assert [row.assignment_id for row in newest.rows] == [first.id, writing.id]
    assert [(row.kind, row.is_changed, row.may_change) for row in newest.rows] == [
        ("ranking", True, True),
        ("demonstration", False, True),
    ]
    rest = page(world, mine, before=newest.older)
    assert ([row.assignment_id for row in rest.rows], rest.older) == ([second.id], None)


def test_answers_are_counted_and_filtered_by_the_version_they_were_made_under() -> None:
    world = make_world(number_of_prompts=3)
    mine = world.labelers[0]
    old = answer(world, mine)
    with db.transaction() as session:
        guidelines.revise(session, session.get_one(Project, world.project_id), world.admin, "Be kinder.")
    new = answer(world, mine)
    with db.transaction() as session:
        assert my_answers.by_version(session, world.project_id, mine) == {2: 1, 1: 1}
        assert my_answers.by_version(session, world.project_id, world.labelers[1]) == {}
    assert [row.assignment_id for row in page(world, mine, version=1).rows] == [old.id]
    assert [(row.assignment_id, row.version) for row in page(world, mine).rows] == [(new.id, 2), (old.id, 1)]


def test_an_answer_that_does_not_count_says_why_and_figures_count_what_was_done() -> None:
    world = make_world(number_of_prompts=2)
    first, second = world.labelers
    late = take(world, first)
    assert late is not None
    expire(late)
    with db.transaction() as session:
        assignments.expire_due(session)
    answer(world, second)
    rank(late, first)
    skipped = take(world, first)
    assert skipped is not None
    with db.transaction() as session:
        assignments.skip(session, skipped.id, first, "unclear")

    (row,) = page(world, first).rows
    assert row.not_counted_reason == assignments.LATE
    found = numbers(world, first)
    assert ([count for _, count in found.days], found.busiest) == ([0] * 13 + [1], 1)
    assert (found.skipped, found.agreement, found.compared) == (1, None, 0)
    assert found.median_seconds is not None
    assert numbers(world, world.admin).median_seconds is None


def test_agreement_with_reviewers_is_the_share_of_pairs_that_both_ordered_alike() -> None:
    world = make_world(number_of_prompts=2, k=3)
    mine = world.labelers[0]
    for number in range(2):
        taken = answer(world, mine, A=1, B=2, C=3)
        a, b, c = (str(item) for item in taken.shown_order)
        # A reviewer puts C before B: of the pairs AB, AC and BC, two agree.
        with db.transaction() as session:
            stored = session.scalars(select(Ranking).where(Ranking.assignment_id == taken.id)).one()
            assert numbers_before(session, world, mine) == number * 3
            session.execute(
                insert(Ranking).values(
                    submit_id=next_submit_id(stored.id),
                    body_sha256="",
                    project_id=world.project_id,
                    task_id=taken.task_id,
                    assignment_id=taken.id,
                    user_id=world.admin.id,
                    guideline_version_id=stored.guideline_version_id,
                    origin="adjudication",
                    groups=[[a], [c], [b]],
                    shown_order=stored.shown_order,
                    is_simulated=False,
                    counted=True,
                    seconds=1.0,
                )
            )
    found = numbers(world, mine)
    assert (found.compared, found.agreement) == (6, pytest.approx(4 / 6))


def numbers_before(session, world: World, user: User) -> int:
    return my_answers.numbers(session, world.project_id, user).compared
