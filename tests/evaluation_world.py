"""Evaluation runs that have succeeded, with the answers that two policies gave, and labelers who judge them blind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import uuid4

from run_builders import fill_project, make_project, make_prompts, make_user
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app import db
from app.models import (
    Assignment,
    BlindEvaluation,
    Completion,
    ModelVersion,
    Project,
    Prompt,
    Run,
    Task,
    TaskCompletion,
    User,
)
from app.services.evaluation import blind
from app.services.labeling import assignments, judgements, rankings
from app.settings import get_settings
from trainer.jsonl import write_jsonl
from trainer.records import Sample

_numbers = count(1)

Say = Callable[[int, str], str]
"""What a policy answers: from the number of the prompt and the policy's name."""


def add_model(session: Session, project: Project, owner: User, name: str, **columns: Any) -> ModelVersion:
    values = {"kind": "policy", "method": "dpo", "uri": "nowhere"} | columns
    model = ModelVersion(project_id=project.id, name=name, created_by=owner.id, **values)
    session.add(model)
    session.flush()
    return model


def add_evaluation_run(
    session: Session,
    project: Project,
    owner: User,
    policies: Sequence[ModelVersion],
    say: Say,
    summary: Mapping[str, Any] | None = None,
    **columns: Any,
) -> Run:
    """An evaluation of these policies, the baseline first, on the project's held-out prompts."""
    held_out = session.scalars(
        select(Prompt).where(Prompt.project_id == project.id, Prompt.split == "held_out").order_by(Prompt.position)
    ).all()
    now = session.execute(select(func.clock_timestamp())).scalar_one()
    values = {
        "state": "succeeded",
        "finished_at": now,
        "report": {"summary": dict(summary or {})},
        "config": {
            "options": {
                "split": "held_out",
                "baseline": policies[0].name,
                "policies": [{"name": policy.name, "model": policy.uri} for policy in policies[1:]],
            }
        },
    }
    run = Run(
        project_id=project.id,
        method="evaluate",
        name=f"Evaluation of {policies[-1].name} against {policies[0].name}",
        inputs={"policies": {policy.name: str(policy.id) for policy in policies}},
        dedupe_key=str(uuid4()),
        parent_model_id=policies[0].id,
        created_by=owner.id,
        **values | columns,
    )
    session.add(run)
    session.flush()
    write_jsonl(
        get_settings().runs_dir / str(run.id) / "samples.jsonl",
        [
            Sample(policy.name, f"p{prompt.content_sha256[:16]}", 0, say(number, policy.name), 9, "stop")
            for policy in policies
            for number, prompt in enumerate(held_out)
        ],
    )
    return run


def judge_next(project: Project, labeler: User, likes: Callable[[dict[str, str], int], str | None]) -> bool:
    """Let a labeler take a ranking task and judge it; return whether there was one.

    `likes` gets the answers' texts by the model that wrote them, and the prompt's position, and names the model whose
    answer is better, or None for a tie.
    """
    with db.transaction() as session:
        taken = assignments.claim(session, session.get_one(Project, project.id), labeler, "ranking")
        if taken is None:
            return False
        assignment = session.get_one(Assignment, taken)
        rows = session.execute(
            select(Completion.id, ModelVersion.name, Completion.text, Prompt.position)
            .join(TaskCompletion, TaskCompletion.completion_id == Completion.id)
            .join(ModelVersion, ModelVersion.id == Completion.model_version_id)
            .join(Prompt, Prompt.id == Completion.prompt_id)
            .where(TaskCompletion.task_id == assignment.task_id)
        ).all()
        best = likes({row.name: row.text for row in rows}, rows[0].position)
        writer = {row.id: row.name for row in rows}
        fields = {
            f"rank_{letter}": "1" if best in (None, writer[completion]) else "2"
            for letter, completion in zip(judgements.LETTERS, assignment.shown_order, strict=False)
        }
        rankings.submit(session, assignment.id, labeler, assignment.submit_id, fields)
        return True


@dataclass(frozen=True)
class Scene:
    admin: User
    labelers: tuple[User, ...]
    project: Project
    old: ModelVersion
    new: ModelVersion
    run: Run
    held_out: int


def make_scene(questions: int = 100, same: int = 0, people: int = 2, collected: int = 0, **columns: Any) -> Scene:
    """A project whose two policies answered its held-out prompts; to the first `same` of them alike."""
    with db.transaction() as session:
        admin = _person(session, "admin")
        labelers = tuple(_person(session, "labeler") for _ in range(people))
        project = make_project(session, admin, f"Kindness of {admin.name}", **columns)
        if collected:
            fill_project(session, project, [admin], [f"Collected {n}?" for n in range(collected)])
            session.execute(update(Task).where(Task.kind == "ranking").values(target_overlap=9))
            session.execute(
                update(Prompt).where(Prompt.project_id == project.id).values(split="train", position=-Prompt.position)
            )
        made = make_prompts(session, project, [f"Question {n}?" for n in range(questions)])
        old, new = (add_model(session, project, admin, name) for name in ("old", "new"))
        run = add_evaluation_run(
            session,
            project,
            admin,
            [old, new],
            lambda number, name: f"All say {number}." if number < same else f"{name} says {number}.",
        )
        return Scene(admin, labelers, project, old, new, run, sum(p.split == "held_out" for p in made))


def begin(scene: Scene, **options: Any) -> BlindEvaluation:
    with db.transaction() as session:
        return blind.start(session, scene.project, scene.admin, scene.run, scene.new, scene.old, **options)


def _person(session: Session, role: str) -> User:
    person = make_user(session, f"{role}-no-{next(_numbers)}@example.org", role)
    session.refresh(person)
    return person
