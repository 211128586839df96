"""Changing many tasks: never below what a task has, also while labelers work, and nothing of another project."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from labeling_world import World, counters_are_right, make_world, rank, take
from sqlalchemy import select, update

from app import db
from app.errors import InvalidInputError, NotFoundError
from app.models import AuditEvent, Project, Task, User
from app.services.labeling import assignments, leases, task_changes, task_list
from app.services.labeling.task_changes import Change, Report
from app.services.labeling.task_list import Filter
from app.services.projects import project_settings, projects
from app.services.projects.project_settings import NewSettings

pytestmark = pytest.mark.usefixtures("database")

SETTINGS = NewSettings(2, 60, 2, "", "everyone", 0, 0, 75)


def change(world: World, wanted: Change, which: Filter | None = None) -> Report:
    with db.transaction() as session:
        condition = (which or Filter()).condition(world.project_id)
        report = task_changes.apply(session, world.project_id, world.admin, condition, wanted)
        return task_changes.report(session, world.project_id, report)


def save(world: World, *, open_tasks_too: bool = False, **values: Any) -> Report | None:
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        new = NewSettings(**{**vars(SETTINGS), **values})
        report = project_settings.save(session, project, world.admin, new, open_tasks_too=open_tasks_too)
        return task_changes.report(session, project.id, report, project_settings.CONFIGURED) if report else None


def tasks_of(world: World) -> list[Task]:
    with db.transaction() as session:
        return list(session.scalars(select(Task).where(Task.project_id == world.project_id).order_by(Task.sort_key)))


def answer(world: World, labeler: User) -> None:
    taken = take(world, labeler)
    assert taken is not None
    rank(taken, labeler)


def test_an_overlap_is_lowered_to_what_a_task_has_and_not_below() -> None:
    world = make_world(number_of_prompts=3, overlap=3, number_of_labelers=3)
    for labeler in world.labelers[:2]:
        answer(world, labeler)
    take(world, world.labelers[2])  # the first task: two answers and a lease

    assert change(world, Change(overlap=1)) == Report("overlap 1", changed=2, kept_higher=1)

    assert [task.target_overlap for task in tasks_of(world)] == [3, 1, 1]
    assert change(world, Change(overlap=4)).changed == 3
    assert counters_are_right()


def test_lowering_while_labelers_take_tasks_never_breaks_a_task() -> None:
    world = make_world(number_of_prompts=12, overlap=4, number_of_labelers=4)

    def work(labeler: User) -> int:
        answered = 0
        for _ in range(25):
            taken = take(world, labeler)
            if taken is not None:  # while a change holds every row, nothing can be handed out for a moment
                answered += rank(taken, labeler).not_counted_reason is None
        return answered

    def lower(_: object) -> int:
        for overlap in (2, 4, 3, 2, 4):
            change(world, Change(overlap=overlap))
        return 0

    with ThreadPoolExecutor(6) as pool:
        jobs: list[tuple[Callable[[Any], int], Any]] = [(work, labeler) for labeler in world.labelers]
        counted = sum(job.result() for job in [pool.submit(*job) for job in [*jobs, (lower, None), (lower, None)]])

    assert counters_are_right()
    assert sum(task.done_count for task in tasks_of(world)) == counted > 0
    assert all(task.done_count + task.open_leases <= task.target_overlap for task in tasks_of(world))


def test_the_settings_raise_the_overlap_of_open_ranking_tasks_only_when_asked() -> None:
    world = make_world(number_of_prompts=3, overlap=1)
    with db.transaction() as session:
        session.execute(update(Task).where(Task.sort_key == 2).values(state="closed"))
        session.execute(update(Task).where(Task.sort_key == 1).values(kind="demonstration"))
    assert save(world, overlap=2) == Report("", 0, 0)
    assert [task.target_overlap for task in tasks_of(world)] == [1, 1, 1]
    assert save(world, overlap=3, open_tasks_too=True) == Report("", 1, 0)
    assert [task.target_overlap for task in tasks_of(world)] == [3, 1, 1]


def test_settings_are_stored_with_what_was_there_before_and_the_same_again_is_no_event() -> None:
    world = make_world(number_of_prompts=0, overlap=2)
    later = datetime.now(UTC).replace(second=0, microsecond=0, tzinfo=None) + timedelta(days=3)
    values = {"deadline": later.isoformat(timespec="minutes"), "access": "members", "gold_percent": 5, "max_leases": 3}
    assert save(world, **values) is not None
    assert save(world, **values) is None
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        assert (project.deadline_at, project.access, project.gold_percent) == (later.replace(tzinfo=UTC), "members", 5)
        (event,) = session.scalars(select(AuditEvent).where(AuditEvent.action == "project.configured"))
        assert event.detail["changes"]["access"] == ["everyone", "members"]
        assert project_settings.shown(project)["deadline"] == values["deadline"]
    assert save(world) is not None  # and without a deadline again
    assert tasks_of(world) == []


def test_a_deadline_is_a_moment_to_come_and_a_past_one_that_stands_does_not_block_other_changes() -> None:
    world = make_world(number_of_prompts=0, overlap=2)
    for typed, sentence in (
        ("soon", "a date and a time in UTC"),
        ("2020-01-01T10:00", "has passed"),
        ("9999-12-31T23:59-12:00", "a date and a time"),
    ):
        with pytest.raises(InvalidInputError, match=sentence):
            save(world, deadline=typed)
    with db.transaction() as session:
        session.get_one(Project, world.project_id).deadline_at = datetime(2020, 1, 1, 10, tzinfo=UTC)
    assert save(world, deadline="2020-01-01T10:00", lease_minutes=30) is not None


def test_tasks_are_closed_and_opened_again_but_drafts_and_chats_are_not_opened() -> None:
    world = make_world(number_of_prompts=4)
    with db.transaction() as session:
        session.execute(update(Task).where(Task.sort_key == 0).values(state="draft"))
        session.execute(update(Task).where(Task.sort_key == 1).values(state="closed", kind="chat"))
    assert change(world, Change(state="open")) == Report("open again", 0, 0)
    assert change(world, Change(state="closed"), Filter(state="open")) == Report("closed", 2, 0)
    assert take(world, world.labelers[0]) is None
    assert change(world, Change(state="open"), Filter(state="closed")).changed == 2
    assert [task.state for task in tasks_of(world)] == ["draft", "closed", "open", "open"]
    assert take(world, world.labelers[0]) is not None


def test_the_highest_priority_is_handed_out_first() -> None:
    world = make_world(number_of_prompts=3)
    last = tasks_of(world)[-1]
    with db.transaction() as session:
        which = task_changes.ticked(world.project_id, [str(last.id)])
        task_changes.apply(session, world.project_id, world.admin, which, Change(priority=7))
    taken = take(world, world.labelers[0])
    assert taken is not None
    assert taken.task_id == last.id


def test_a_change_reaches_no_task_of_another_project_and_says_what_it_needs() -> None:
    world, other = make_world(number_of_prompts=1), make_world(number_of_prompts=1)
    foreign = str(tasks_of(other)[0].id)
    with db.transaction() as session:
        which = task_changes.ticked(world.project_id, [foreign])
        report = task_changes.apply(session, world.project_id, world.admin, which, Change(state="closed"))
        assert task_changes.report(session, world.project_id, report).changed == 0
        with pytest.raises(NotFoundError):
            task_changes.report(session, other.project_id, report)
        for ticks, sentence in (([], "Tick the tasks"), (["x"], "does not exist"), ([foreign] * 201, "At most 200")):
            with pytest.raises(InvalidInputError, match=sentence):
                task_changes.ticked(world.project_id, ticks)
        with pytest.raises(InvalidInputError, match="Say what to change"):
            task_changes.apply(session, world.project_id, world.admin, which, Change())
    assert tasks_of(other)[0].state == "open"


@pytest.mark.parametrize("typed", ["0", "17", "two", "²", "1.5"])
def test_an_overlap_is_a_number_from_1_to_16(typed: str) -> None:
    assert (task_changes.overlap_of("16"), task_changes.overlap_of("")) == (16, None)
    assert task_changes.priority_of("-5") == -5
    with pytest.raises(InvalidInputError, match="An overlap is a whole number from 1 to 16"):
        task_changes.overlap_of(typed)


def test_the_list_goes_back_and_forth_and_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_list, "PAGE_SIZE", 2)
    world = make_world(number_of_prompts=5)
    with db.transaction() as session:
        session.execute(update(Task).where(Task.sort_key == 3).values(required_tags=["lang:de"]))

        def page(wanted: Filter, **where: Any) -> tuple[list[str], Any, Any]:
            found = task_list.page(session, world.project_id, wanted, **where)
            return [row.messages[0]["content"][9] for row in found.rows], found.newer, found.older

        first, newer, older = page(Filter())
        assert (first, newer) == (["4", "3"], None)
        second, newer, older = page(Filter(), before=older)
        assert second == ["2", "1"]
        third, _, end = page(Filter(), before=older)
        assert (third, end) == (["0"], None)
        assert page(Filter(), after=newer) == (first, None, task_list.page(session, world.project_id, Filter()).older)
        assert page(Filter(tag="lang:de"))[0] == ["3"]
        assert page(Filter(state="closed"))[0] == []
        for wrong in ({"state": "gone"}, {"kind": "x"}, {"purpose": "y"}, {"tag": "\x00"}):
            with pytest.raises(InvalidInputError):
                Filter(**wrong)


def test_a_lease_is_listed_and_taken_back_by_an_admin_of_its_own_project_only() -> None:
    world, other = make_world(number_of_prompts=1), make_world(number_of_prompts=1)
    taken = take(world, world.labelers[0])
    assert taken is not None
    with db.transaction() as session:
        (lease,) = leases.listed(session, world.project_id)
        assert (lease.assignment_id, lease.labeler, lease.is_ahead, lease.is_over) == (
            taken.id,
            world.labelers[0].name,
            False,
            False,
        )
        assert leases.count_open(session, world.project_id) == 1
        with pytest.raises(NotFoundError):
            leases.release(session, other.project_id, taken.id, world.admin)
    for _ in range(2):
        with db.transaction() as session:
            leases.release(session, world.project_id, taken.id, world.admin)
    with db.transaction() as session:
        assert leases.listed(session, world.project_id) == []
    assert counters_are_right()
    assert take(world, world.labelers[1]) is not None
    # What its labeler sends all the same is kept; the place has gone to another.
    assert rank(taken, world.labelers[0]).not_counted_reason == assignments.LATE


def test_an_archived_project_hands_nothing_out_and_can_be_opened_again() -> None:
    world = make_world(number_of_prompts=1)
    for state, is_handed_out in (("archived", False), ("open", True)):
        with db.transaction() as session:
            projects.set_state(session, session.get_one(Project, world.project_id), world.admin, state)
        assert (take(world, world.labelers[0]) is not None) == is_handed_out
    with db.transaction() as session, pytest.raises(InvalidInputError, match="open, paused or archived"):
        projects.set_state(session, session.get_one(Project, world.project_id), world.admin, "gone")
