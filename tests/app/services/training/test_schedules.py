"""Schedules: what is refused, edits that meet, and that an edit never loses or doubles a due time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pipeline_world import SHORT, Loop, make_loop, seldom
from sqlalchemy import select, update

from app.db import transaction
from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import AuditEvent, Occurrence, Schedule
from app.services.training import occurrences, schedules
from app.services.training.schedules import Values

WEEKLY = Values(name="Weekly", cron="0 2 * * 1", timezone="Europe/Berlin", recipe=SHORT)


@pytest.fixture
def loop(database: str, redis_url: str, tmp_path: Path) -> Loop:
    return make_loop(tmp_path / "models")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"name": "  "}, "Give the schedule a name"),
        ({"name": "x" * 81}, "Give the schedule a name"),
        ({"cron": "0 2"}, "has five fields"),
        ({"timezone": "Europe/Atlantis"}, "is no time zone"),
        ({"recipe": {"stages": []}}, "from 1 to 32 stages"),
        ({"catch_up": "none"}, "Choose one of the policies offered."),
        ({"overlap": "allow"}, "Choose one of the policies offered."),
        ({"min_new_rankings": -1}, "from 0 to 1,000,000"),
    ],
)
def test_a_schedule_that_will_not_do_is_refused(loop: Loop, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence), transaction() as session:
        schedules.create(session, loop.project, loop.admin, replace(WEEKLY, **values))
    with transaction() as session:
        assert schedules.create(session, loop.project, loop.admin, WEEKLY).cron == "0 2 * * 1"


def test_a_name_is_taken_once_in_a_project(loop: Loop) -> None:
    with transaction() as session:
        schedules.create(session, loop.project, loop.admin, WEEKLY)
        other = schedules.create(session, loop.project, loop.admin, replace(WEEKLY, name="Monthly"))
    with pytest.raises(ConflictError, match="already"), transaction() as session:
        schedules.create(session, loop.project, loop.admin, replace(WEEKLY, name=" Weekly "))
    with pytest.raises(ConflictError, match="already"), transaction() as session:
        schedules.change(session, other.id, loop.admin, 1, WEEKLY)


def test_of_two_edits_from_the_same_page_the_second_is_told(loop: Loop) -> None:
    with transaction() as session:
        made = schedules.create(session, loop.project, loop.admin, WEEKLY)
        schedules.change(session, made.id, loop.admin, 1, replace(WEEKLY, cron="0 3 * * 1"))
    with pytest.raises(ConflictError, match="Somebody has changed this schedule"), transaction() as session:
        schedules.change(session, made.id, loop.admin, 1, replace(WEEKLY, cron="0 4 * * 1"))
    with transaction() as session:
        found = schedules.get(session, made.id)
        assert (found.cron, found.version) == ("0 3 * * 1", 2)
        actions = session.scalars(select(AuditEvent.action).where(AuditEvent.object_type == "schedule")).all()
    assert actions == ["schedule.created", "schedule.changed"]


def test_an_edit_settles_what_was_due_before_it_by_the_old_rules(loop: Loop) -> None:
    due = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    with transaction() as session:
        made = schedules.create(session, loop.project, loop.admin, replace(WEEKLY, cron=seldom()))
        session.execute(update(Schedule).values(next_due_at=due))
    with transaction() as session:
        schedules.change(session, made.id, loop.admin, 1, replace(WEEKLY, cron="0 3 1 * *", catch_up="skip"))
    with transaction() as session:
        rows = session.scalars(select(Occurrence)).all()
        assert [(row.due_at, row.state) for row in rows] == [(due, "started")]
        assert schedules.get(session, made.id).next_due_at > occurrences.moment(session)


def test_nothing_is_found_for_an_unknown_id(loop: Loop) -> None:
    with transaction() as session:
        for look in (schedules.get, schedules.lock):
            with pytest.raises(NotFoundError):
                look(session, loop.project.id)
