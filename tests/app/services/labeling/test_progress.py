"""What a project's page and a labeler's page count."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from labeling_world import World, expire, make_world, rank, take
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app import db
from app.models import Assignment, Project, Ranking, Task, User
from app.services.labeling import answered, assignments, progress, rankings, tasks
from app.services.projects import project_overview, projects

pytestmark = pytest.mark.usefixtures("database")


def overview(project_id) -> project_overview.Overview:
    with db.transaction() as session:
        return project_overview.overview(session, project_id)


def my_work(user: User) -> list[progress.WorkLine]:
    with db.transaction() as session:
        set_to_noon(session)
        return progress.my_work(session, user)


def set_to_noon(session: Session) -> None:
    """Count days where it is about noon now, so that no midnight falls between an answer and its count."""
    session.execute(text(f"SET LOCAL TIME ZONE {12 - datetime.now(UTC).hour}"))


def test_an_empty_project_counts_nothing() -> None:
    world = make_world(number_of_prompts=0)
    found = overview(world.project_id)
    assert (found.prompts, found.ranked, found.labelers, sum(found.per_hour), len(found.per_hour)) == (0, 0, (), 0, 24)
    assert found.ranking == project_overview.TaskCounts(0, 0, 0, 0, 0, 0)


def test_tasks_are_counted_where_they_stand() -> None:
    world = make_world(number_of_prompts=4, overlap=2)
    first, second = world.labelers
    for labeler in (first, second):
        taken = take(world, labeler)
        assert taken is not None
        rank(taken, labeler)
    take(world, first)
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        tasks.open_demonstration_tasks(session, project)

    found = overview(world.project_id)

    assert found.ranking == project_overview.TaskCounts(
        draft=0, waiting=2, in_progress=1, done=1, answers_done=2, answers_wanted=8
    )
    assert found.demonstration == project_overview.TaskCounts(0, 4, 0, 0, 0, 4)
    assert (found.prompts, found.sampled, found.ranked, found.without_demonstration) == (4, 4, 1, 0)
    assert found.per_hour[-1] + found.per_hour[-2] == 2  # the hour may turn while the test runs


def test_drafts_are_counted_apart() -> None:
    world = make_world(number_of_prompts=3, open_tasks=False)
    assert overview(world.project_id).ranking == project_overview.TaskCounts(3, 0, 0, 0, 0, 0)


def test_the_work_of_simulated_labelers_is_marked() -> None:
    world = make_world(number_of_prompts=2)
    person, program = world.labelers
    with db.transaction() as session:
        session.get_one(User, program.id).is_simulated = True
    assert not overview(world.project_id).is_simulated
    for labeler in (person, User(id=program.id, role="labeler", is_simulated=True, tags=[])):
        taken = take(world, labeler)
        assert taken is not None
        rank(taken, labeler)
    found = overview(world.project_id)
    assert found.is_simulated
    assert {(line.name, line.is_simulated, line.rankings) for line in found.labelers} == {
        (person.name, False, 1),
        (program.name, True, 1),
    }


def test_skips_and_uncounted_work_show_beside_the_rest() -> None:
    world = make_world(number_of_prompts=2, number_of_labelers=2)
    first, second = world.labelers
    late = take(world, first)
    assert late is not None
    expire(late)
    with db.transaction() as session:
        assignments.expire_due(session)
    in_time = take(world, second)
    assert in_time is not None
    rank(in_time, second)
    rank(late, first)
    skipped = take(world, first)
    assert skipped is not None
    with db.transaction() as session:
        assignments.skip(session, skipped.id, first, "harmful")

    found = overview(world.project_id)

    by_name = {line.name: line for line in found.labelers}
    assert (by_name[first.name].rankings, by_name[first.name].not_counted, by_name[first.name].skipped) == (0, 1, 1)
    assert (by_name[second.name].rankings, by_name[second.name].not_counted) == (1, 0)
    assert found.skips == (("The content is harmful or private", 1),)


def test_a_labeler_sees_what_waits_for_them_and_what_they_hold() -> None:
    world = make_world(number_of_prompts=3)
    first, second = world.labelers
    taken = take(world, first)
    assert taken is not None

    (mine,), (theirs,) = my_work(first), my_work(second)

    assert (mine.held, mine.progress.rankings_waiting) == ({"ranking": taken.id}, 2)
    assert (theirs.held, theirs.progress.rankings_waiting) == ({}, 2)
    rank(taken, first)
    (mine,) = my_work(first)
    assert (mine.held, mine.progress.done_today, mine.progress.done_total) == ({}, 1, 1)
    (theirs,) = my_work(second)
    assert (theirs.progress.done_today, theirs.progress.done_total) == (0, 0)


def test_a_paused_project_shows_only_to_those_who_hold_work_in_it(session: Session) -> None:
    world = make_world(number_of_prompts=2)
    first, second = world.labelers
    take(world, first)
    with db.transaction() as other:
        projects.set_state(other, other.get_one(Project, world.project_id), world.admin, "paused")
    assert [line.project.state for line in my_work(first)] == ["paused"]
    assert my_work(second) == []


def test_gold_trial_and_closed_tasks_are_no_answers_that_are_wanted() -> None:
    world = make_world(number_of_prompts=4, overlap=2)
    rank_one(world, world.labelers[0])
    with db.transaction() as session:
        first, second, third, _ = session.scalars(select(Task).order_by(Task.sort_key))
        first.state = "closed"
        second.purpose, second.reference, second.target_overlap = "gold", [], 1_000_000
        third.purpose, third.reference, third.target_overlap = "screening", [], 1_000_000
    found = overview(world.project_id)
    assert found.ranking == project_overview.TaskCounts(0, 1, 0, 0, 1, 3, closed=1)
    assert found.queue[("ranking", "gold")].waiting == found.queue[("ranking", "screening")].waiting == 1
    with db.transaction() as session:
        assert project_overview.answers_by_project(session) == {world.project_id: (1, 3)}
        assert progress.mine(session, world.project_id, world.labelers[1]).rankings_waiting == 1


def test_a_changed_answer_and_one_taken_back_are_counted_as_what_stands() -> None:
    world = make_world(number_of_prompts=2)
    mine = world.labelers[0]
    changed = rank_one(world, mine)
    with db.transaction() as session:
        before = rankings.latest(session, changed.id)
        assert before is not None
        fields = {"rank_A": "1", "rank_B": "1", "rank_C": "1", "edit_A": "Better."}
        rankings.submit(session, changed.id, mine, answered.next_submit_id(before.id), fields)
    taken_back = rank_one(world, mine)
    with db.transaction() as session:
        rankings.undo(session, taken_back.id, mine)
        set_to_noon(session)
        found = progress.mine(session, world.project_id, mine)
        assert (found.done_today, found.done_total) == (1, 1)
    (line,) = overview(world.project_id).labelers
    assert (line.rankings, line.demonstrations, line.not_counted) == (1, 0, 0)


def test_the_time_left_follows_the_pace_and_is_not_made_up_without_one() -> None:
    world = make_world(number_of_prompts=6, overlap=2)  # 12 answers wanted
    pace, _ = overview(world.project_id).paces
    assert (pace.left, pace.done_at, pace.hours_left, pace.hours_left_now) == (12, None, None, None)
    assert overview(world.project_id).done_at is None
    for _ in range(4):
        rank_one(world, world.labelers[0])
    with db.transaction() as session:  # Two of them came 30 and two 10 hours ago. Rows of rankings never change.
        session.execute(text("ALTER TABLE rankings DISABLE TRIGGER USER"))
        for hours, ranking in zip((30, 30, 10, 10), session.scalars(select(Ranking).order_by(Ranking.id)), strict=True):
            ranking.created_at -= timedelta(hours=hours)
        session.flush()
        session.execute(text("ALTER TABLE rankings ENABLE TRIGGER USER"))
    pace, writing = overview(world.project_id).paces
    # Eight are left; the last 24 hours brought two, the last hour none.
    assert (pace.left, pace.per_hour_of_day, pace.per_hour_now) == (8, pytest.approx(2 / 24), 0)
    assert (pace.hours_left, pace.hours_left_now) == (pytest.approx(96), None)
    assert (writing.left, writing.hours_left) == (0, None)
    found = overview(world.project_id)
    assert found.done_at is not None
    for hours, late in ((95, True), (97, False)):
        project = Project(deadline_at=datetime.now(UTC) + timedelta(hours=hours))
        assert project_overview.is_late(project, found) is late
    assert project_overview.is_late(Project(deadline_at=None), found) is None


def test_a_young_project_has_the_pace_of_the_hours_it_has() -> None:
    world = make_world(number_of_prompts=4)
    for _ in range(2):
        rank_one(world, world.labelers[0])
    pace, _ = overview(world.project_id).paces
    assert (pace.per_hour_of_day, pace.per_hour_now, pace.hours_left) == (2.0, 2, 1.0)


def rank_one(world: World, labeler: User) -> Assignment:
    taken = take(world, labeler)
    assert taken is not None
    rank(taken, labeler)
    return taken
