"""Every due time has exactly one row: by every policy, after an outage, and with many ticks and admins at once."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pipeline_world import SHORT, Loop, make_loop, pipeline, seldom
from run_builders import make_user, rank
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError

from app.db import transaction
from app.errors import ConflictError, PlackettError
from app.models import Occurrence, Pipeline, Project, Ranking, Schedule, Task
from app.services.training import occurrences, pipelines, schedules, timing
from app.services.training.schedules import Values
from app.worker import rounds, tasks

SNAPSHOT_ONLY = {"stages": SHORT["stages"][:1]}
YEARLY = Values(name="Yearly", cron=seldom(), timezone="Europe/Berlin", recipe=SHORT)
LATEST_INSTEAD = "Missed while the scheduler was down; the latest due time was caught up instead."
MISSED = "Missed while the scheduler was down."


@pytest.fixture
def loop(database: str, redis_url: str, tmp_path: Path) -> Loop:
    return make_loop(tmp_path / "models")


def schedule(loop: Loop, **values: Any) -> UUID:
    with transaction() as session:
        return schedules.create(session, loop.project, loop.admin, replace(YEARLY, **values)).id


def missed(loop: Loop, *, late: int = 30, days: int = 3, **values: Any) -> UUID:
    """A daily schedule whose last due times, the newest `late` minutes ago, nobody has looked at."""
    last = datetime.now(UTC) - timedelta(minutes=late)
    schedule_id = schedule(loop, cron=f"{last.minute} {last.hour} * * *", timezone="UTC", **values)
    move_back(schedule_id, last.replace(second=0, microsecond=0) - timedelta(days=days - 1))
    return schedule_id


def move_back(schedule_id: UUID, next_due_at: datetime) -> None:
    with transaction() as session:
        session.execute(update(Schedule).where(Schedule.id == schedule_id).values(next_due_at=next_due_at))


def rows(schedule_id: UUID) -> list[Occurrence]:
    with transaction() as session:
        query = select(Occurrence).where(Occurrence.schedule_id == schedule_id).order_by(Occurrence.due_at)
        return list(session.scalars(query))


def told(schedule_id: UUID) -> list[tuple[str, str | None]]:
    return [(row.state, row.reason) for row in rows(schedule_id)]


def rounds_of(schedule_id: UUID) -> list[str]:
    with transaction() as session:
        query = select(Pipeline.state).where(Pipeline.schedule_id == schedule_id).order_by(Pipeline.number)
        return list(session.scalars(query))


def settle(schedule_id: UUID) -> None:
    """One look at a schedule; the rounds it starts stay at their first stage."""
    with transaction() as session:
        occurrences.settle(session, schedule_id)


STARTED, QUEUED = ("started", None), ("queued", "Round 1 was still running.")
SKIPPED = ("skipped", "Round 1 was still running.")


@pytest.mark.parametrize(
    ("catch_up", "overlap", "late", "expected", "states"),
    [
        ("latest", "skip", 30, [("skipped", LATEST_INSTEAD)] * 2 + [STARTED], ["running"]),
        ("latest", "queue", 30, [("skipped", LATEST_INSTEAD)] * 2 + [STARTED], ["running"]),
        ("latest", "cancel_running", 30, [("skipped", LATEST_INSTEAD)] * 2 + [STARTED], ["running"]),
        ("all", "skip", 30, [STARTED, SKIPPED, SKIPPED], ["running"]),
        ("all", "queue", 30, [STARTED, QUEUED, QUEUED], ["running"]),
        ("all", "cancel_running", 30, [STARTED] * 3, ["cancelled", "cancelled", "running"]),
        ("skip", "skip", 30, [("skipped", MISSED)] * 3, []),
        ("skip", "queue", 30, [("skipped", MISSED)] * 3, []),
        ("skip", "cancel_running", 30, [("skipped", MISSED)] * 3, []),
        ("skip", "skip", 2, [("skipped", MISSED)] * 2 + [STARTED], ["running"]),
    ],
)
def test_after_an_outage_each_missed_due_time_has_its_row(
    loop: Loop, catch_up: str, overlap: str, late: int, expected: list[Any], states: list[str]
) -> None:
    schedule_id = missed(loop, late=late, catch_up=catch_up, overlap=overlap)
    settle(schedule_id)
    assert told(schedule_id) == expected
    assert rounds_of(schedule_id) == states
    settle(schedule_id)
    assert told(schedule_id) == expected
    with transaction() as session:
        assert schedules.get(session, schedule_id).next_due_at > occurrences.moment(session)


@pytest.mark.parametrize(
    ("overlap", "expected", "states"),
    [
        ("skip", SKIPPED, ["running"]),
        ("queue", QUEUED, ["running"]),
        ("cancel_running", STARTED, ["cancelled", "running"]),
    ],
)
def test_a_due_time_that_meets_a_running_round(
    loop: Loop, overlap: str, expected: tuple[str, str | None], states: list[str]
) -> None:
    schedule_id = missed(loop, days=1, overlap=overlap)
    with transaction() as session:
        schedules.run_now(session, schedule_id, loop.admin, "a")
    settle(schedule_id)
    found = [row for row in rows(schedule_id) if row.asked_by is None]
    assert [(row.state, row.reason) for row in found] == [expected]
    assert rounds_of(schedule_id) == states


def test_what_waits_starts_in_its_order_when_its_turn_comes(loop: Loop) -> None:
    schedule_id = missed(loop, catch_up="all", overlap="queue", recipe=SNAPSHOT_ONLY)
    for done in (1, 2, 3):
        settle(schedule_id)
        assert [row.state for row in rows(schedule_id)] == ["started"] * done + ["queued"] * (3 - done)
        rounds.look()
    assert rounds_of(schedule_id) == ["succeeded"] * 3
    by_due = [pipeline(row.pipeline_id).number for row in rows(schedule_id) if row.pipeline_id]
    assert by_due == [1, 2, 3]


def test_a_round_waits_until_there_are_enough_new_rankings(loop: Loop) -> None:
    schedule_id = missed(loop, days=2, catch_up="all", recipe=SNAPSHOT_ONLY, min_new_rankings=10)
    settle(schedule_id)
    few = "Too few new rankings: 0 since round 1, and 10 are needed."
    assert told(schedule_id) == [STARTED, ("skipped", few)]
    rounds.look()
    with transaction() as session:
        found = schedules.get(session, schedule_id)
        assert occurrences.new_rankings(session, found)[0] == 0
        for task in session.scalars(select(Task).where(Task.kind == "ranking").limit(3)):
            # A changed answer is new; what does not count is none.
            before = session.scalars(select(Ranking.id).where(Ranking.task_id == task.id)).one()
            rank(session, task, loop.admin, [[2], [1], [0]], supersedes=before)
        rank(
            session,
            task,
            make_user(session, "late@example.org", "labeler"),
            [[0]],
            counted=False,
            not_counted_reason="late",
        )
        assert occurrences.new_rankings(session, found)[0] == 3


def test_a_round_that_failed_has_used_no_rankings(loop: Loop) -> None:
    schedule_id = missed(loop, days=1, min_new_rankings=10)
    rounds.look()
    (row,) = rows(schedule_id)
    assert row.pipeline_id is not None
    loop.end_run(row.pipeline_id, failure="No.")
    with transaction() as session:
        assert occurrences.new_rankings(session, schedules.get(session, schedule_id)) == (10, None)


def test_what_is_due_before_and_in_a_pause_is_settled_by_the_rule_of_its_time(loop: Loop) -> None:
    before = missed(loop, days=1)
    with transaction() as session:
        schedules.set_paused(session, before, loop.admin, paused=True)
    assert told(before) == [STARTED]
    within = schedule(loop, name="Another")
    with transaction() as session:
        schedules.set_paused(session, within, loop.admin, paused=True)
    move_back(within, datetime.now(UTC) - timedelta(minutes=5))
    with transaction() as session:
        schedules.set_paused(session, within, loop.admin, paused=False)
    assert told(within) == [("skipped", "The schedule was paused.")]


def test_an_archived_project_starts_nothing(loop: Loop) -> None:
    schedule_id = missed(loop, days=1)
    with transaction() as session:
        session.execute(update(Project).values(state="archived"))
    settle(schedule_id)
    assert told(schedule_id) == [("skipped", "The project was archived.")]


def test_a_recipe_that_no_longer_will_do_is_a_reason_not_a_crash(loop: Loop) -> None:
    schedule_id = missed(loop, days=1)
    with transaction() as session:
        session.execute(update(Schedule).values(recipe={"stages": [{"name": "data", "kind": "astrology"}]}))
    settle(schedule_id)
    assert [(state, (reason or "")[:35]) for state, reason in told(schedule_id)] == [
        ("skipped", "The recipe will not do any more: St")
    ]


def test_run_now_makes_a_row_and_a_round_once_for_each_form(loop: Loop) -> None:
    schedule_id = schedule(loop, recipe=SNAPSHOT_ONLY, min_new_rankings=1000)
    with transaction() as session:
        schedules.set_paused(session, schedule_id, loop.admin, paused=True)
        first = schedules.run_now(session, schedule_id, loop.admin, "form 1")
        assert schedules.run_now(session, schedule_id, loop.admin, "form 1") is first
    assert [(row.state, row.asked_by) for row in rows(schedule_id)] == [("started", loop.admin.id)]
    with pytest.raises(ConflictError, match="has not ended yet"), transaction() as session:
        schedules.run_now(session, schedule_id, loop.admin, "form 2")
    rounds.look()
    with transaction() as session:
        schedules.run_now(session, schedule_id, loop.admin, "form 2")
    assert rounds_of(schedule_id) == ["succeeded", "running"]


def test_run_now_waits_where_the_schedule_queues_also_in_a_pause(loop: Loop) -> None:
    schedule_id = schedule(loop, recipe=SNAPSHOT_ONLY, overlap="queue")
    with transaction() as session:
        schedules.set_paused(session, schedule_id, loop.admin, paused=True)
        schedules.run_now(session, schedule_id, loop.admin, "form 1")
        assert schedules.run_now(session, schedule_id, loop.admin, "form 2").state == "queued"
    with pytest.raises(ConflictError), transaction() as session:
        schedules.run_now(session, schedule_id, loop.admin, "form 3")
    rounds.look()
    rounds.look()
    assert rounds_of(schedule_id) == ["succeeded", "succeeded"]


def test_a_retry_does_not_run_beside_another_round_of_its_schedule(loop: Loop) -> None:
    schedule_id = missed(loop, days=2, catch_up="all", overlap="cancel_running")
    settle(schedule_id)
    first, second = (row.pipeline_id for row in rows(schedule_id))
    assert first is not None
    assert second is not None
    assert pipeline(first).reason == "Replaced by the next round of its schedule."
    with pytest.raises(ConflictError, match="Another round of this schedule is running"), transaction() as session:
        pipelines.retry(session, first, loop.admin)
    with transaction() as session:
        pipelines.cancel(session, second, loop.admin)
    with transaction() as session:
        pipelines.retry(session, first, loop.admin)
    assert rounds_of(schedule_id) == ["running", "cancelled"]


def test_a_tick_settles_what_is_due_and_carries_on_what_runs(loop: Loop) -> None:
    schedule_id = missed(loop, days=1, recipe=SNAPSHOT_ONLY)
    tasks.tick()
    assert rounds_of(schedule_id) == ["succeeded"]


def test_one_broken_schedule_never_holds_the_others_up(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = missed(loop, days=1, name="A"), missed(loop, days=1, name="B")
    with transaction() as session:
        session.execute(update(Schedule).where(Schedule.id == broken).values(timezone="Atlantis/Capital"))
    rounds.look()
    assert rows(broken) == []
    assert told(sound) == [STARTED]
    assert f"schedule {broken} could not be looked at" in caplog.text


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("overlap", schedules.OVERLAP)
def test_many_ticks_and_admins_at_once_give_each_due_time_one_row(loop: Loop, overlap: str, seed: int) -> None:
    """Threads interleave as they like: ticks, pauses, wishes, changes. More is due than is settled in one go."""
    chance = random.Random(seed)
    schedule_id = schedule(
        loop, cron="* * * * *", overlap=overlap, catch_up=chance.choice(schedules.CATCH_UP), recipe=SNAPSHOT_ONLY
    )
    begin = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=occurrences.IN_ONE_GO + 20)
    move_back(schedule_id, begin)
    changes = [
        rounds.look,
        rounds.look,
        tasks.tick,
        partial(wish, lambda session: schedules.set_paused(session, schedule_id, loop.admin, paused=True)),
        partial(wish, lambda session: schedules.set_paused(session, schedule_id, loop.admin, paused=False)),
        partial(wish, lambda session: schedules.run_now(session, schedule_id, loop.admin, str(uuid4()))),
        partial(wish, lambda session: change(session, schedule_id, loop)),
    ]
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(chance.choice(changes)) for _ in range(16)]:
            future.result()
    with transaction() as session:
        schedules.set_paused(session, schedule_id, loop.admin, paused=False)
    rounds.look()
    rounds.look()
    with transaction() as session:
        found = session.scalars(select(Occurrence).order_by(Occurrence.due_at)).all()
        next_due_at = schedules.get(session, schedule_id).next_due_at
        linked = session.scalar(select(func.count(Pipeline.id)))
    due = [row.due_at for row in found if row.asked_by is None]
    minutes = round((next_due_at - begin).total_seconds() / 60)
    assert due == [begin + timedelta(minutes=number) for number in range(minutes)]
    assert minutes > occurrences.IN_ONE_GO
    started = [row.pipeline_id for row in found if row.state == "started"]
    assert len(set(started)) == len(started) == linked


def wish(do: Any) -> None:
    """What an admin asks for; no is an answer like any other."""
    try:
        with transaction() as session:
            do(session)
    except (PlackettError, OperationalError):  # refused, or somebody else holds the schedule for too long
        pass


def change(session: Any, schedule_id: UUID, loop: Loop) -> None:
    found = schedules.get(session, schedule_id)
    values = Values(
        found.name, found.cron, found.timezone, found.recipe, overlap=found.overlap, catch_up=found.catch_up
    )
    schedules.change(session, schedule_id, loop.admin, found.version, values)


def test_due_times_are_read_on_the_schedules_clock(loop: Loop) -> None:
    schedule_id = schedule(loop, cron="0 2 * * 1")
    with transaction() as session:
        found = schedules.get(session, schedule_id)
        expected = next(timing.due_times("0 2 * * 1", "Europe/Berlin", occurrences.moment(session)))
    assert found.next_due_at == expected
