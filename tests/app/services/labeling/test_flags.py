"""Flags: a labeler says what is wrong and keeps the task; a reviewer closes the task or dismisses the flag."""

from __future__ import annotations

import pytest
from labeling_world import make_world, rank, take, task_of
from sqlalchemy import select

from app import db
from app.errors import InvalidInputError, NotFoundError
from app.models import AuditEvent
from app.services.labeling import flags

pytestmark = pytest.mark.usefixtures("database")


def test_a_flag_is_stored_once_replaced_and_does_not_take_the_task_away() -> None:
    world = make_world(number_of_prompts=1, overlap=2)
    mine, other = world.labelers
    taken = take(world, mine)
    assert taken is not None
    with db.transaction() as session:
        flags.add(session, taken.id, mine, "private", "")
        flags.add(session, taken.id, mine, "broken", " cut\r\noff ")
        (row,) = flags.listed(session, world.project_id)
        assert (row.reason, row.note, row.labeler, row.resolution) == (
            flags.REASONS["broken"],
            "cut\noff",
            mine.name,
            None,
        )
        assert flags.count_open(session, world.project_id) == 1
        with pytest.raises(NotFoundError):
            flags.add(session, taken.id, other, "broken", "")
        for reason, note, sentence in (("", "", "Choose what is wrong"), ("other", "x" * 2001, "Shorten the note")):
            with pytest.raises(InvalidInputError, match=sentence):
                flags.add(session, taken.id, mine, reason, note)
    assert rank(taken, mine).not_counted_reason is None


@pytest.mark.parametrize(("resolution", "state"), [("closed", "closed"), ("dismissed", "open")])
def test_a_reviewer_settles_a_flag_once(resolution: str, state: str) -> None:
    world, other = make_world(number_of_prompts=1, overlap=3), make_world(number_of_prompts=0)
    taken = take(world, world.labelers[0])
    assert taken is not None
    with db.transaction() as session:
        flags.add(session, taken.id, world.labelers[0], "broken", "")
        (row,) = flags.listed(session, world.project_id)
        with pytest.raises(NotFoundError):
            flags.resolve(session, other.project_id, row.id, world.admin, resolution)
        with pytest.raises(InvalidInputError, match="closing the task or by dismissing"):
            flags.resolve(session, world.project_id, row.id, world.admin, "burn")
        for _ in range(2):
            flags.resolve(session, world.project_id, row.id, world.admin, resolution)
        (row,) = flags.listed(session, world.project_id)
        assert (row.resolution, row.resolved_by, row.task_state) == (resolution, world.admin.name, state)
        assert flags.count_open(session, world.project_id) == 0
        events = session.scalars(select(AuditEvent.action).where(AuditEvent.action.like("flag.%"))).all()
        assert events == [f"flag.{resolution}"]
        flags.add(session, taken.id, world.labelers[0], "private", "once more")
        assert [flag.resolution for flag in flags.listed(session, world.project_id)] == [None, resolution]
    assert task_of(taken).state == state
    assert (take(world, world.labelers[1]) is None) == (state == "closed")
