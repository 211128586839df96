"""Rows that runs, snapshots and exports are made of, written straight into the database."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.models import (
    Assignment,
    Completion,
    Demonstration,
    GuidelineVersion,
    ModelVersion,
    Project,
    Prompt,
    Ranking,
    Run,
    Snapshot,
    Task,
    TaskCompletion,
    User,
)
from app.services.training import runs, snapshots
from trainer.jsonl import canonical
from trainer.records import Message, split_of

HELD_OUT = 0.3


def make_user(session: Session, email: str = "admin@example.org", role: str = "admin", **columns: Any) -> User:
    user = User(email=email, name=email.split("@")[0], role=role, password_hash="none", **columns)
    session.add(user)
    session.flush()
    return user


def make_project(session: Session, owner: User, name: str = "Kindness", **columns: Any) -> Project:
    settings = {"k": 3, "overlap": 4, "lease_minutes": 30, "held_out_fraction": HELD_OUT} | columns
    project = Project(name=name, created_by=owner.id, **settings)
    session.add(project)
    session.flush()
    session.add(GuidelineVersion(project_id=project.id, version=1, body="Be kind.", created_by=owner.id))
    session.flush()
    return project


def make_prompts(session: Session, project: Project, questions: Sequence[str], after: int = 0) -> list[Prompt]:
    made = []
    for position, question in enumerate(questions, start=after + 1):
        messages = [{"role": "user", "content": question}]
        split = split_of((Message("user", question),), project.held_out_fraction)
        digest = hashlib.sha256(canonical(messages)).hexdigest()
        made.append(
            Prompt(project_id=project.id, position=position, messages=messages, content_sha256=digest, split=split)
        )
    session.add_all(made)
    session.flush()
    return made


def make_task(session: Session, prompt: Prompt, answers: Sequence[str], kind: str = "ranking") -> Task:
    task = Task(
        project_id=prompt.project_id,
        prompt_id=prompt.id,
        kind=kind,
        state="open",
        sort_key=prompt.position,
        target_overlap=4,
    )
    session.add(task)
    session.flush()
    for position, answer in enumerate(answers):
        completion = Completion(prompt_id=prompt.id, text=answer, source="human")
        session.add(completion)
        session.flush()
        session.add(TaskCompletion(task_id=task.id, completion_id=completion.id, position=position))
    session.flush()
    return task


def completion_ids(session: Session, task: Task) -> list[UUID]:
    query = select(TaskCompletion.completion_id).where(TaskCompletion.task_id == task.id)
    return list(session.scalars(query.order_by(TaskCompletion.position)))


def _assignment(session: Session, task: Task, labeler: User) -> Assignment:
    guideline = session.scalars(select(GuidelineVersion).where(GuidelineVersion.project_id == task.project_id)).one()
    found = session.scalar(select(Assignment).where(Assignment.task_id == task.id, Assignment.user_id == labeler.id))
    if found is not None:
        return found
    assignment = Assignment(
        task_id=task.id,
        user_id=labeler.id,
        state="done",
        shown_order=list(reversed(completion_ids(session, task))),
        guideline_version_id=guideline.id,
        expires_at=session.execute(select(text("clock_timestamp()"))).scalar_one(),
    )
    session.add(assignment)
    session.flush()
    return assignment


def rank(session: Session, task: Task, labeler: User, groups: Sequence[Sequence[int]], **columns: Any) -> Ranking:
    """Store a ranking; `groups` are tie groups of positions, best first."""
    assignment, ids = _assignment(session, task, labeler), completion_ids(session, task)
    ranking = Ranking(
        **{"submit_id": uuid4(), "body_sha256": "0" * 64, "counted": True, "seconds": 1.0, "is_simulated": False}
        | columns,
        project_id=task.project_id,
        task_id=task.id,
        assignment_id=assignment.id,
        user_id=labeler.id,
        guideline_version_id=assignment.guideline_version_id,
        groups=[[str(ids[place]) for place in group] for group in groups],
        shown_order=assignment.shown_order,
    )
    session.add(ranking)
    session.flush()
    return ranking


def demonstrate(session: Session, prompt: Prompt, labeler: User, answer: str, **columns: Any) -> Demonstration:
    task = make_task(session, prompt, [], kind="demonstration")
    assignment = _assignment(session, task, labeler)
    demonstration = Demonstration(
        **{"submit_id": uuid4(), "body_sha256": "0" * 64, "counted": True, "seconds": 1.0, "is_simulated": False}
        | columns,
        project_id=prompt.project_id,
        task_id=task.id,
        assignment_id=assignment.id,
        user_id=labeler.id,
        guideline_version_id=assignment.guideline_version_id,
        text=answer,
    )
    session.add(demonstration)
    session.flush()
    return demonstration


def make_model(
    session: Session, project: Project, owner: User, uri: str, name: str = "base", **columns: Any
) -> ModelVersion:
    settings = {"kind": "policy", "method": "base"} | columns
    model = ModelVersion(project_id=project.id, name=name, uri=uri, created_by=owner.id, **settings)
    session.add(model)
    session.flush()
    return model


def fake_model_folder(folder: Path) -> str:
    """A folder that looks like a model; for tests that never load one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    return str(folder)


def fill_project(session: Session, project: Project, labelers: Sequence[User], questions: Sequence[str]) -> None:
    """Prompts, each with three answers ranked by every labeler and one demonstration of the first."""
    for prompt in make_prompts(session, project, questions):
        number = prompt.position
        task = make_task(session, prompt, [f"Yes, {number}.", f"No, {number}.", f"Perhaps {number}."])
        for labeler in labelers:
            rank(session, task, labeler, [[0], [2, 1]] if number % 2 else [[1], [0], [2]])
        demonstrate(session, prompt, labelers[0], f"A good answer to {number}.")


def queue_training_run(
    session: Session,
    project: Project,
    owner: User,
    model: ModelVersion,
    snapshot: Snapshot,
    method: str = "sft",
    **keywords: Any,
) -> Run:
    return runs.create_training_run(session, project, method, owner, model=model, snapshot=snapshot, **keywords)


def freeze(session: Session, project: Project, owner: User) -> Snapshot:
    return snapshots.create(session, project, owner)
