"""Two projects with something of everything that the REST API has, and tokens of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from run_builders import (
    fake_model_folder,
    fill_project,
    freeze,
    make_model,
    make_project,
    make_user,
    queue_training_run,
)
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db import transaction
from app.models import (
    Chat,
    ChatModel,
    ChatTurn,
    Completion,
    Demonstration,
    GuidelineVersion,
    Job,
    ModelVersion,
    Pipeline,
    PipelineStage,
    Project,
    Prompt,
    Ranking,
    Run,
    Schedule,
    Snapshot,
    Task,
    Upload,
    User,
)
from app.services.accounts import tokens


@dataclass(frozen=True)
class ApiWorld:
    """`ids` are one object of each kind in the first project, `foreign` in the second; both by parameter name."""

    admin_id: UUID
    ids: dict[str, UUID]
    foreign: dict[str, UUID]

    def token(self, scopes: Sequence[str], *, everywhere: bool = False) -> str:
        """Make a token of the admin, for the first project only unless `everywhere`."""
        with transaction() as session:
            admin = session.get_one(User, self.admin_id)
            project_id = None if everywhere else self.ids["project_id"]
            return tokens.create(session, admin, name="world", scopes=scopes, project_id=project_id, days=1)[1]


def make_api_world(tmp_path: Path, *, prompts: int = 4) -> ApiWorld:
    """Make both projects; runs are queued and nobody takes them."""
    with transaction() as session:
        admin = make_user(session, "owner@example.org")
        ada = make_user(session, "ada@example.org", "labeler")
        folder = fake_model_folder(tmp_path / "model")
        projects = []
        for name in ("Kindness", "Honesty"):
            project = make_project(session, admin, name)
            fill_project(session, project, [ada, admin], [f"{name}: is it {n}?" for n in range(prompts)])
            make_model(session, project, admin, folder)
            make_model(session, project, admin, folder, "tuned")
            make_model(session, project, admin, folder, "judge", kind="reward")
            _chat(session, project, ada)
            _weekly(session, project)
            projects.append(project)
    with transaction() as session:
        for project in projects:
            model = session.scalars(select(ModelVersion).where(ModelVersion.project_id == project.id)).first()
            assert model is not None
            queue_training_run(session, project, admin, model, freeze(session, project, admin))
    with transaction() as session:
        own, foreign = (_ids(session, project.id) for project in projects)
    return ApiWorld(admin.id, own, foreign)


def _chat(session: Session, project: Project, labeler: User) -> None:
    guideline = session.scalars(select(GuidelineVersion).where(GuidelineVersion.project_id == project.id)).one()
    chat = Chat(project_id=project.id, user_id=labeler.id)
    session.add(chat)
    session.add(
        ChatModel(
            project_id=project.id,
            endpoint="lab",
            model="small",
            weight=1,
            temperature=0.5,
            max_tokens=64,
            created_by=project.created_by,
        )
    )
    session.flush()
    session.add(Upload(project_id=project.id, size=100, created_by=project.created_by))
    session.add(Job(project_id=project.id, kind="snapshot", created_by=project.created_by))
    session.add(ChatTurn(chat_id=chat.id, number=1, message="Hello?", guideline_version_id=guideline.id))
    session.flush()


def _weekly(session: Session, project: Project) -> None:
    recipe = {"stages": [{"kind": "snapshot", "name": "freeze"}]}
    session.add(
        Schedule(
            project_id=project.id,
            name="weekly",
            cron="0 3 * * 1",
            timezone="UTC",
            recipe=recipe,
            next_due_at=func.clock_timestamp() + timedelta(days=7),
            created_by=project.created_by,
        )
    )
    pipeline = Pipeline(
        project_id=project.id,
        number=1,
        name="Round 1",
        recipe=recipe,
        dedupe_key=f"{project.name} 1",
        created_by=project.created_by,
    )
    session.add(pipeline)
    session.flush()
    session.add(PipelineStage(pipeline_id=pipeline.id, position=0, kind="snapshot", name="freeze"))


def _ids(session: Session, project_id: UUID) -> dict[str, UUID]:
    def first(column: Any, *conditions: Any) -> UUID:
        found: UUID = session.scalars(select(column).where(*conditions).order_by(column)).first()
        return found

    return {
        "project_id": project_id,
        "prompt_id": first(Prompt.id, Prompt.project_id == project_id),
        "completion_id": session.scalars(
            select(Completion.id).join(Prompt, Prompt.id == Completion.prompt_id).where(Prompt.project_id == project_id)
        ).first(),
        "task_id": first(Task.id, Task.project_id == project_id, Task.kind == "ranking"),
        "ranking_id": first(Ranking.id, Ranking.project_id == project_id),
        "demonstration_id": first(Demonstration.id, Demonstration.project_id == project_id),
        "turn_id": session.scalars(
            select(ChatTurn.id).join(Chat, Chat.id == ChatTurn.chat_id).where(Chat.project_id == project_id)
        ).first(),
        "chat_id": first(Chat.id, Chat.project_id == project_id),
        "snapshot_id": first(Snapshot.id, Snapshot.project_id == project_id),
        "other_id": first(Snapshot.id, Snapshot.project_id == project_id),
        "upload_id": first(Upload.id, Upload.project_id == project_id),
        "job_id": first(Job.id, Job.project_id == project_id),
        "schedule_id": first(Schedule.id, Schedule.project_id == project_id),
        "pipeline_id": first(Pipeline.id, Pipeline.project_id == project_id),
        "run_id": first(Run.id, Run.project_id == project_id),
        "model_id": first(ModelVersion.id, ModelVersion.project_id == project_id),
    }  # type: ignore[return-value]  # the rows were just made


def nowhere(names: Sequence[str]) -> dict[str, UUID]:
    """Return ids of the same names that nothing has."""
    return {name: uuid4() for name in names}
