"""Demonstrations: one text for each training prompt, stored once."""

from __future__ import annotations

import pytest
from labeling_world import World, make_world, take, task_of
from sqlalchemy import func, select

from app import db
from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import Assignment, Demonstration, Project, Prompt, Task
from app.services.labeling import demonstrations, tasks
from app.services.labeling.rankings import Stored


@pytest.fixture
def world(database: str) -> World:
    made = make_world(number_of_prompts=3)
    with db.transaction() as session:
        assert tasks.open_demonstration_tasks(session, session.get_one(Project, made.project_id)) == 3
    return made


def write(world: World, assignment: Assignment, body: str) -> Stored:
    with db.transaction() as session:
        return demonstrations.submit(session, assignment.id, world.labelers[0], assignment.submit_id, {"text": body})


def test_a_demonstration_is_stored_as_written_with_plain_line_ends(world: World) -> None:
    assignment = take(world, world.labelers[0], "demonstration")
    assert assignment is not None
    assert assignment.shown_order == []

    write(world, assignment, "  One.\r\nTwo.\r\n")

    with db.transaction() as session:
        stored = session.scalars(select(Demonstration)).one()
        assert (stored.text, stored.counted, stored.is_simulated) == ("One.\nTwo.", True, False)
        latest = demonstrations.latest(session, assignment.id)
        assert latest is not None
        assert (latest.text, latest.supersedes) == ("One.\nTwo.", None)
    assert task_of(assignment).done_count == 1


def test_a_second_click_stores_nothing_new_and_another_text_is_a_conflict(world: World) -> None:
    assignment = take(world, world.labelers[0], "demonstration")
    assert assignment is not None
    assert not write(world, assignment, "One.").is_replay
    assert write(world, assignment, "One.\n").is_replay
    with pytest.raises(ConflictError, match="first answer to this task is saved"):
        write(world, assignment, "Two.")
    with db.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Demonstration)) == 1


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("", "it is empty"),
        (" \r\n\t", "it is empty"),
        ("x" * 20_001, "has 20,001 characters"),
        ("a\x00b", "NUL"),
    ],
)
def test_a_text_that_cannot_be_stored_is_refused_in_a_sentence(world: World, body: str, sentence: str) -> None:
    assignment = take(world, world.labelers[0], "demonstration")
    assert assignment is not None
    with pytest.raises(InvalidInputError, match=sentence):
        write(world, assignment, body)
    assert task_of(assignment).done_count == 0
    write(world, assignment, "x" * 20_000)  # the longest that can be stored


def test_a_ranking_task_takes_no_demonstration(world: World) -> None:
    assignment = take(world, world.labelers[0], "ranking")
    assert assignment is not None
    with pytest.raises(NotFoundError):
        write(world, assignment, "One.")


def test_held_out_prompts_get_no_demonstration_task_and_nobody_gets_two(database: str) -> None:
    world = make_world(number_of_prompts=40, held_out_percent=50)
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        training = session.scalar(select(func.count()).where(Prompt.split == "train"))
        assert 0 < training < 40
        assert tasks.open_demonstration_tasks(session, project) == training
        assert tasks.open_demonstration_tasks(session, project) == 0
        splits = session.scalars(select(Prompt.split).join(Task).where(Task.kind == "demonstration").distinct()).all()
        assert splits == ["train"]
