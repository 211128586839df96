"""Tasks from sampled answers: equal answers once, nothing to rank means no task, opening once."""

from __future__ import annotations

from uuid import uuid4

import pytest
from labeling_world import add_answers, make_sampling_run, make_world
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import db
from app.errors import InvalidInputError
from app.models import AuditEvent, Completion, Project, Prompt, Task, TaskCompletion, User
from app.services.labeling import tasks
from trainer.records import Sample


@pytest.fixture
def project(session: Session, database: str) -> Project:
    world = make_world(number_of_prompts=0, overlap=2)
    project = session.get_one(Project, world.project_id)
    for position, question in enumerate(("One?", "Two?", "Three?")):
        session.add(
            Prompt(
                project_id=project.id,
                position=position,
                messages=[{"role": "user", "content": question}],
                content_sha256=str(position),
                split="train",
            )
        )
    session.flush()
    return project


@pytest.fixture
def admin(session: Session, project: Project) -> User:
    return session.get_one(User, project.created_by)


def prompt_ids(session: Session, project: Project) -> list[str]:
    query = select(Prompt.id).where(Prompt.project_id == project.id).order_by(Prompt.position)
    return [str(item) for item in session.scalars(query)]


def sample(prompt_id: str, index: int, text: str) -> Sample:
    return Sample("base", prompt_id, index, text, 5, "stop")


def test_answers_become_draft_tasks_in_prompt_order(session: Session, project: Project, admin: User) -> None:
    run, model = make_sampling_run(session, project, admin)
    ids = prompt_ids(session, project)
    samples = [sample(prompt_id, index, f"Answer {index}") for index in (1, 0, 2) for prompt_id in reversed(ids)]

    assert tasks.add_sampled(session, run, samples, model.id) == 3

    made = session.scalars(select(Task).order_by(Task.sort_key)).all()
    assert [str(task.prompt_id) for task in made] == ids
    assert {(task.state, task.kind, task.target_overlap, task.sampling_run_id) for task in made} == {
        ("draft", "ranking", 2, run.id)
    }
    answers = session.execute(
        select(Completion.text, Completion.sample_index, Completion.model_version_id, Completion.source)
        .join(TaskCompletion, TaskCompletion.completion_id == Completion.id)
        .where(TaskCompletion.task_id == made[0].id)
        .order_by(TaskCompletion.position)
    ).all()
    assert [tuple(row) for row in answers] == [(f"Answer {index}", index, model.id, "model") for index in range(3)]


def test_equal_answers_are_merged_and_a_prompt_with_one_answer_left_gets_no_task(
    session: Session, project: Project, admin: User
) -> None:
    run, model = make_sampling_run(session, project, admin)
    first, second, third = prompt_ids(session, project)
    samples = [
        *(sample(first, index, text) for index, text in enumerate(("Yes.", "No.", "Yes."))),
        *(sample(second, index, text) for index, text in enumerate(("Yes.", "Yes. ", "\nYes."))),
        *(sample(third, index, text) for index, text in enumerate(("", "Maybe.", "maybe."))),
    ]

    assert tasks.add_sampled(session, run, samples, model.id) == 2

    texts = select(Prompt.position, Completion.text).join(Prompt, Prompt.id == Completion.prompt_id)
    stored = session.execute(texts.order_by(Prompt.position, Completion.sample_index)).all()
    assert [tuple(row) for row in stored] == [
        (0, "Yes."),
        (0, "No."),
        (1, "Yes."),
        (2, ""),
        (2, "Maybe."),
        (2, "maybe."),
    ]
    (made,) = tasks.sampled(session, project.id)
    assert (made.prompts, made.completions, made.draft, made.opened, made.without_task) == (3, 6, 2, 0, 1)


def test_a_nul_in_an_answer_does_not_fail_the_run(session: Session, project: Project, admin: User) -> None:
    run, model = make_sampling_run(session, project, admin)
    prompt_id = prompt_ids(session, project)[0]
    assert tasks.add_sampled(session, run, [sample(prompt_id, 0, "a\x00b"), sample(prompt_id, 1, "b")], model.id) == 1
    assert session.scalar(select(Completion.text).where(Completion.sample_index == 0)) == "a\N{REPLACEMENT CHARACTER}b"


def test_an_answer_to_a_prompt_of_another_project_is_refused(session: Session, project: Project, admin: User) -> None:
    run, model = make_sampling_run(session, project, admin)
    with pytest.raises(InvalidInputError, match="not in this project"):
        tasks.add_sampled(session, run, [sample(str(uuid4()), 0, "a"), sample(str(uuid4()), 1, "b")], model.id)
    assert session.scalar(select(func.count()).select_from(Completion)) == 0


def test_a_run_without_samples_makes_nothing(session: Session, project: Project, admin: User) -> None:
    run, model = make_sampling_run(session, project, admin)
    assert tasks.add_sampled(session, run, [], model.id) == 0


def test_later_answers_stand_behind_earlier_ones(session: Session, project: Project, admin: User) -> None:
    add_answers(session, project, admin, ["a", "b"])
    add_answers(session, project, admin, ["c", "d"])
    assert session.scalars(select(Task.sort_key).order_by(Task.id)).all() == [0, 1, 2, 3, 4, 5]
    assert [item.draft for item in tasks.sampled(session, project.id)] == [3, 3]


def test_opening_is_noted_and_the_second_time_opens_nothing(session: Session, project: Project, admin: User) -> None:
    add_answers(session, project, admin, ["a", "b"])
    assert tasks.open_tasks(session, project, admin, "ranking") == 3
    assert tasks.open_tasks(session, project, admin, "ranking") == 0
    assert tasks.open_tasks(session, project, admin, "demonstration") == 3
    session.flush()
    events = session.scalars(
        select(AuditEvent.detail).where(AuditEvent.action == "tasks.opened").order_by(AuditEvent.id)
    )
    assert events.all() == [{"kind": "ranking", "count": 3}, {"kind": "demonstration", "count": 3}]
    assert {item.opened for item in tasks.sampled(session, project.id)} == {3}


def test_opening_leaves_other_projects_alone(database: str) -> None:
    other = make_world(open_tasks=False)
    mine = make_world(open_tasks=False)
    with db.transaction() as session:
        tasks.open_ranking_tasks(session, session.get_one(Project, mine.project_id))
        rows = session.execute(select(Task.project_id, Task.state).distinct())
        states = {row.project_id: row.state for row in rows}
    assert states == {other.project_id: "draft", mine.project_id: "open"}


def test_each_answer_keeps_its_policy_and_how_it_was_drawn(session: Session, project: Project, admin: User) -> None:
    run, model = make_sampling_run(session, project, admin)
    _, other = make_sampling_run(session, project, admin)
    run.inputs = {"policies": {"new": str(model.id), "old at 1.2": str(other.id)}}
    run.config = {
        "options": {
            "policies": [{"name": "new", "temperature": None}, {"name": "old at 1.2", "temperature": 1.2}],
            "sampling": {"temperature": 0.7, "top_p": 0.9},
        }
    }
    first = prompt_ids(session, project)[0]
    samples = [Sample("new", first, 0, "Yes.", 5, "stop"), Sample("old at 1.2", first, 1, "No.", 6, "length")]
    assert tasks.add_sampled(session, run, samples, model.id) == 1
    stored = session.execute(
        select(Completion.model_version_id, Completion.sampling).order_by(Completion.sample_index)
    ).all()
    assert [tuple(row) for row in stored] == [
        (model.id, {"tokens": 5, "temperature": 0.7, "top_p": 0.9}),
        (other.id, {"tokens": 6, "temperature": 1.2, "top_p": 0.9}),
    ]
