"""What a project's page and a labeler's page count."""

from __future__ import annotations

import pytest
from labeling_world import expire, make_world, rank, take
from sqlalchemy.orm import Session

from app import db
from app.models import Project, User
from app.services import assignments, progress, projects, tasks

pytestmark = pytest.mark.usefixtures("database")


def overview(project_id) -> progress.Overview:
    with db.transaction() as session:
        return progress.overview(session, project_id)


def my_work(user: User) -> list[progress.WorkLine]:
    with db.transaction() as session:
        return progress.my_work(session, user)


def test_an_empty_project_counts_nothing() -> None:
    world = make_world(number_of_prompts=0)
    found = overview(world.project_id)
    assert (found.prompts, found.ranked, found.labelers, sum(found.per_hour), len(found.per_hour)) == (0, 0, (), 0, 24)
    assert found.ranking == progress.TaskCounts(0, 0, 0, 0, 0, 0)


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

    assert found.ranking == progress.TaskCounts(
        draft=0, waiting=2, in_progress=1, done=1, answers_done=2, answers_wanted=8
    )
    assert found.demonstration == progress.TaskCounts(0, 4, 0, 0, 0, 4)
    assert (found.prompts, found.sampled, found.ranked, found.without_demonstration) == (4, 4, 1, 0)
    assert found.per_hour[-1] + found.per_hour[-2] == 2  # the hour may turn while the test runs


def test_drafts_are_counted_apart() -> None:
    world = make_world(number_of_prompts=3, open_tasks=False)
    assert overview(world.project_id).ranking == progress.TaskCounts(3, 0, 0, 0, 0, 0)


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
