"""Who may work where: everyone or members, on trial, turned down, taken out; and what their page shows of it."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from labeling_world import World, make_world, rank, take
from sqlalchemy import func, select

from app import db
from app.errors import ForbiddenError, InvalidInputError
from app.models import AuditEvent, Membership, Project, User
from app.services.labeling import progress
from app.services.labeling.progress import WorkLine
from app.services.projects import memberships
from app.services.quality.trials import Trial

pytestmark = pytest.mark.usefixtures("database")


def configure(world: World, **columns: object) -> None:
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        for name, value in columns.items():
            setattr(project, name, value)


def put(world: World, user: User, state: str) -> None:
    with db.transaction() as session:
        memberships.set_state(session, session.get_one(Project, world.project_id), user.id, world.admin, state)


def standing(world: World, user: User) -> str:
    with db.transaction() as session:
        return memberships.standing_of(session, session.get_one(Project, world.project_id), user)


def lines(user: User) -> list[WorkLine]:
    with db.transaction() as session:
        return progress.my_work(session, user)


def test_in_an_open_project_everybody_works_but_who_was_turned_down_or_taken_out() -> None:
    world = make_world(number_of_prompts=4)
    mine, other = world.labelers
    assert take(world, mine) is not None
    for state, sentence in (
        ("rejected", "did not agree with the reference answers"),
        ("removed", "do not work in this project any more"),
    ):
        put(world, other, state)
        with pytest.raises(ForbiddenError, match=sentence):
            take(world, other)
        # Whoever was turned down reads why; for who was taken out the project is gone.
        assert [(line.refusal or "").find(sentence) >= 0 for line in lines(other)] == [True][: state == "rejected"]
        assert not any(line.may_start for line in lines(other))
    put(world, other, "active")
    assert take(world, other) is not None


def test_a_project_for_members_is_hidden_from_others_and_open_to_reviewers() -> None:
    world = make_world()
    configure(world, access="members")
    mine, other = world.labelers
    put(world, mine, "active")
    assert take(world, mine) is not None
    assert [line.may_start for line in lines(mine)] == [True]
    assert lines(other) == []
    with pytest.raises(ForbiddenError, match="Only the members of this project"):
        take(world, other)
    assert (standing(world, other), standing(world, world.admin)) == ("outside", "active")


def test_who_is_new_to_a_project_with_a_trial_is_on_trial_and_looking_writes_nothing() -> None:
    world = make_world()
    configure(world, screening_tasks=3)
    mine = world.labelers[0]
    (line,) = lines(mine)
    assert (line.progress.trial, line.progress.rankings_waiting) == (Trial(0, 0), 0)  # there are no trial tasks yet
    with db.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Membership)) == 0
    assert take(world, mine) is None
    with db.transaction() as session:
        assert session.scalars(select(Membership.state)).all() == ["screening"]


@pytest.mark.parametrize(("score", "state"), [(0.75, "active"), (0.74, "rejected")])
def test_a_trial_ends_at_the_threshold_and_only_once(score: float, state: str) -> None:
    world = make_world()
    mine = world.labelers[0]
    put(world, mine, "screening")
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        assert memberships.conclude_trial(session, project, mine.id, score) == state
        memberships.conclude_trial(session, project, mine.id, 0.1)
        (member,) = memberships.listed(session, project.id)
        assert (member.name, member.state, member.score) == (mine.name, state, score)


def test_a_decision_is_recorded_once_and_a_strange_one_is_refused() -> None:
    world = make_world(number_of_prompts=0)
    mine, other = world.labelers
    for _ in range(2):
        put(world, mine, "active")
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        actions = session.scalars(select(AuditEvent.action).where(AuditEvent.action.like("member.%"))).all()
        assert actions == ["member.active"]
        assert [user_id for user_id, _ in memberships.could_be_added(session, project.id)] == [other.id]
        with pytest.raises(InvalidInputError, match="Choose what to do"):
            memberships.set_state(session, project, mine.id, world.admin, "king")
        with pytest.raises(InvalidInputError, match="no such account"):
            memberships.set_state(session, project, uuid4(), world.admin, "active")


def test_a_project_past_its_deadline_says_so_and_hands_nothing_out() -> None:
    world = make_world(number_of_prompts=2)
    mine = world.labelers[0]
    taken = take(world, mine)
    assert taken is not None
    configure(world, deadline_at=datetime(2020, 1, 1, tzinfo=UTC))
    (line,) = lines(mine)
    assert (line.is_over, line.may_start, line.held) == (True, False, {"ranking": taken.id})
    assert rank(taken, mine).not_counted_reason is None
    assert take(world, mine) is None
