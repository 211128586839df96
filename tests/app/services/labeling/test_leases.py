"""Who is handed what, in which order shown, and what becomes of a lease: kept, taken ahead, given back, released."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from uuid import UUID

import pytest
from labeling_world import (
    World,
    counters_are_right,
    expire,
    make_user,
    make_world,
    rank,
    stored_rankings,
    take,
    task_of,
)
from sqlalchemy import func, select, update

from app import db
from app.errors import ForbiddenError, NotFoundError
from app.models import Assignment, AuditEvent, Membership, Project, Task, TaskCompletion, User
from app.services.labeling import assignments
from app.services.projects import memberships


@pytest.fixture
def world(database: str) -> World:
    return make_world(number_of_prompts=4)


def set_project(world: World, **values: object) -> None:
    with db.transaction() as session:
        session.execute(update(Project).where(Project.id == world.project_id).values(**values))


def set_task(task_id: UUID, **values: object) -> None:
    with db.transaction() as session:
        session.execute(update(Task).where(Task.id == task_id).values(**values))


def task_ids(world: World) -> list[UUID]:
    with db.transaction() as session:
        return list(session.scalars(select(Task.id).where(Task.project_id == world.project_id).order_by(Task.sort_key)))


def take_ahead(world: World, user: User, of: Assignment) -> Assignment | None:
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        found = assignments.claim(session, project, user, "ranking", ahead_of=of.id)
        return None if found is None else session.get_one(Assignment, found)


def fresh(assignment: Assignment) -> Assignment:
    with db.transaction() as session:
        return session.get_one(Assignment, assignment.id)


def test_the_next_task_is_leased_ahead_once_and_is_the_one_that_comes(world: World) -> None:
    labeler = world.labelers[0]
    first = take(world, labeler)
    assert first is not None
    ahead, again = take_ahead(world, labeler, first), take_ahead(world, labeler, first)
    assert ahead is not None
    assert again is not None
    assert (ahead.id, ahead.shown_at) == (again.id, None)
    assert first.shown_at is not None
    still_first = take(world, labeler)
    assert still_first is not None
    assert still_first.id == first.id
    rank(first, labeler)
    following = take(world, labeler)
    assert following is not None
    assert following.id == ahead.id
    assert following.shown_at is not None
    assert counters_are_right()


def test_nobody_holds_more_leases_than_the_project_allows(world: World) -> None:
    labeler = world.labelers[0]
    set_project(world, max_leases=1)
    first = take(world, labeler)
    assert first is not None
    assert take_ahead(world, labeler, first) is None
    set_project(world, max_leases=2)
    assert take_ahead(world, labeler, first) is not None


def test_a_task_taken_ahead_goes_back_unseen_and_may_come_again_but_one_that_was_shown_stays(world: World) -> None:
    labeler = world.labelers[0]
    set_project(world, max_leases=3)
    first = take(world, labeler)
    assert first is not None
    ahead = take_ahead(world, labeler, first)
    assert ahead is not None
    with db.transaction() as session:
        assignments.give_back(session, ahead.id, labeler)
        assignments.give_back(session, first.id, labeler)
    assert (fresh(ahead).state, fresh(first).state) == ("expired", "leased")
    assert counters_are_right()
    others = [take(world, make_labeler()) for _ in range(3)]
    assert ahead.task_id in {other.task_id for other in others if other}


def test_an_open_page_keeps_its_lease_for_a_bounded_time(world: World) -> None:
    labeler, stranger = world.labelers
    held = take(world, labeler)
    assert held is not None
    expire(held)
    with db.transaction() as session:
        until = assignments.keep(session, held.id, labeler)
        assert assignments.keep(session, held.id, stranger) is None
    assert until is not None
    assert until > held.expires_at - timedelta(minutes=1)
    with db.transaction() as session:
        session.get_one(Assignment, held.id).started_at = held.started_at - timedelta(days=30)
    expire(held)
    with db.transaction() as session:
        over = assignments.keep(session, held.id, labeler)
        assert over is not None
        assert over <= session.execute(select(func.clock_timestamp())).scalar_one()
        assignments.expire_due(session)
        assert assignments.keep(session, held.id, labeler) is None


def test_an_admin_releases_a_lease_and_what_is_sent_all_the_same_counts_while_a_place_is_free(world: World) -> None:
    labeler = world.labelers[0]
    held = take(world, labeler)
    assert held is not None
    with db.transaction() as session:
        assignments.release(session, held.id, world.admin)
        assignments.release(session, held.id, world.admin)
    assert fresh(held).state == "released"
    assert task_of(held).open_leases == 0
    with db.transaction() as session:
        events = session.scalars(select(AuditEvent.action).where(AuditEvent.object_id == str(held.id))).all()
    assert events == ["assignment.released"]
    following = take(world, labeler)
    assert following is not None
    assert following.task_id != held.task_id
    assert rank(held, labeler).not_counted_reason is None
    assert counters_are_right()


def test_over_k_labelers_every_answer_stands_once_in_every_place(database: str) -> None:
    world = make_world(number_of_prompts=1, k=4, overlap=8, number_of_labelers=8)
    orders = []
    for labeler in world.labelers:
        taken = take(world, labeler)
        assert taken is not None
        orders.append(tuple(taken.shown_order))
    for four in (orders[:4], orders[4:]):
        for places in zip(*four, strict=True):
            assert len(set(places)) == len(places)


def test_the_first_order_shown_does_not_follow_the_stored_one(database: str) -> None:
    world = make_world(number_of_prompts=60, k=2)
    set_project(world, max_leases=20)
    first_shown: Counter[int] = Counter()
    labeler = world.labelers[0]
    for _ in range(60):
        taken = take(world, labeler)
        assert taken is not None
        with db.transaction() as session:
            query = select(TaskCompletion.position).where(
                TaskCompletion.task_id == taken.task_id, TaskCompletion.completion_id == taken.shown_order[0]
            )
            first_shown[session.scalars(query).one()] += 1
        rank(taken, labeler, A=1, B=1)
    # Of 60 fair coins fewer than 12 or more than 48 heads come less than once in a million times.
    assert 12 <= first_shown[0] <= 48


def test_only_who_has_all_the_tags_gets_a_task(world: World) -> None:
    speaker, other = world.labelers
    first, *_ = task_ids(world)
    set_task(first, required_tags=["lang:de", "medicine"])
    with db.transaction() as session:
        session.get_one(User, speaker.id).tags = ["medicine", "lang:de", "lang:en"]
        session.get_one(User, other.id).tags = ["lang:de"]
    with db.transaction() as session:
        people = [session.get_one(User, person.id) for person in (speaker, other)]
    theirs, others = (take(world, person) for person in people)
    assert theirs is not None
    assert others is not None
    assert theirs.task_id == first
    assert others.task_id != first


def test_after_its_deadline_a_project_hands_out_nothing_and_takes_what_is_in_hand(world: World) -> None:
    labeler, other = world.labelers
    held = take(world, labeler)
    assert held is not None
    set_project(world, deadline_at=func.clock_timestamp() - timedelta(seconds=1))
    assert take(world, other) is None
    kept = take(world, labeler)
    assert kept is not None
    assert kept.id == held.id
    assert rank(held, labeler).not_counted_reason is None
    set_project(world, deadline_at=func.clock_timestamp() + timedelta(hours=1))
    assert take(world, other) is not None


def test_only_members_work_in_a_project_of_members(world: World) -> None:
    member, outsider = world.labelers
    set_project(world, access="members")
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        memberships.set_state(session, project, member.id, world.admin, "active")
    assert take(world, member) is not None
    with pytest.raises(ForbiddenError, match="Only the members"):
        take(world, outsider)
    assert take(world, world.admin) is not None
    with db.transaction() as session:
        memberships.set_state(session, project, member.id, world.admin, "removed")
    with pytest.raises(ForbiddenError, match="not work in this project any more"):
        take(world, member)


def test_a_newcomer_gets_the_trial_tasks_and_nothing_else_until_they_are_let_in(world: World) -> None:
    newcomer, second = world.labelers
    trial, *_ = task_ids(world)
    set_project(world, screening_tasks=1)
    make_known(trial, "screening")

    taken = take(world, newcomer)
    assert taken is not None
    assert taken.task_id == trial
    rank(taken, newcomer)
    assert standing(world, newcomer) in ("screening", "active", "rejected")  # who concludes the trial decides
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        memberships.set_state(session, project, newcomer.id, world.admin, "active")
        memberships.set_state(session, project, second.id, world.admin, "active")
    for labeler in (newcomer, second):
        regular = take(world, labeler)
        assert regular is not None
        assert regular.task_id != trial


def test_gold_tasks_come_in_between_to_everybody_once(world: World) -> None:
    gold, *_ = task_ids(world)
    make_known(gold, "gold")
    set_project(world, gold_percent=0)
    for labeler in world.labelers:
        taken = take(world, labeler)
        assert taken is not None
        assert taken.task_id != gold
        rank(taken, labeler)
    set_project(world, gold_percent=50)
    for labeler in world.labelers:
        seen = []
        while taken := take(world, labeler):
            seen.append(taken.task_id)
            rank(taken, labeler)
        assert seen.count(gold) <= 1
    assert len(stored_rankings(world)) >= 3


def test_a_stranger_cannot_give_back_or_keep_what_is_not_theirs(world: World) -> None:
    labeler, stranger = world.labelers
    held = take(world, labeler)
    assert held is not None
    with pytest.raises(NotFoundError), db.transaction() as session:
        assignments.give_back(session, held.id, stranger)
    assert fresh(held).state == "leased"


def make_labeler() -> User:
    with db.transaction() as session:
        return make_user(session)


def make_known(task_id: UUID, purpose: str) -> None:
    with db.transaction() as session:
        answers = session.scalars(select(TaskCompletion.completion_id).where(TaskCompletion.task_id == task_id)).all()
    set_task(task_id, purpose=purpose, reference=[[str(answer)] for answer in answers], target_overlap=1_000)


def standing(world: World, user: User) -> str:
    with db.transaction() as session:
        return session.scalars(
            select(Membership.state).where(Membership.project_id == world.project_id, Membership.user_id == user.id)
        ).one()
