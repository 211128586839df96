"""Who the authorisation matrix sends, and which objects they ask for: own, foreign, mixed and deleted ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from api_world import make_api_world
from run_builders import make_task, make_user
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.auth import cookie_name
from app.db import transaction
from app.models import (
    ApiToken,
    Assignment,
    AuditEvent,
    BlindEvaluation,
    Chat,
    ChatModel,
    Completion,
    Flag,
    GuidelineVersion,
    Import,
    Invitation,
    Membership,
    ModelVersion,
    Project,
    Prompt,
    Quarantine,
    TaskCompletion,
    User,
    Webhook,
    WebhookDelivery,
)
from app.services.accounts import access
from app.services.accounts.tokens import SCOPES

PEOPLE = ("labeler A", "labeler B", "reviewer", "admin")
STRANGER = "stranger"
OBJECTS = ("own", "foreign", "mixed", "deleted")
"""Of the first project and labeler A's; of the second and labeler C's; the latter named under the first; of nobody."""

FIXED = {"name": "manifest.json", "number": "1"}
"""Parts of an address that are no object of their own."""

QUERIES = {
    "/api/v1/projects/{project_id}/import": "?format=trl&dataset=d",
    "/api/v1/uploads/{upload_id}/import": "?format=trl&dataset=d",
}
"""What a route cannot do without."""


NOTHING_IMPORTED = dict.fromkeys(
    ("added", "prompts", "completions", "labelers", "duplicates_in_file", "duplicates_in_project", "left_out"), 0
) | {"of": "rankings", "left_out_lines": []}


@dataclass(frozen=True)
class Caller:
    """Headers that say who asks."""

    headers: dict[str, str]


@dataclass(frozen=True)
class Scene:
    """Callers by name, and objects by the names of path parameters."""

    people: dict[str, Caller]
    tokens: dict[str, Caller]
    objects: dict[str, dict[str, str]]
    bodies: dict[str, Any]
    """By method and path, what fits of the first project."""

    def path(self, template: str, kind: str) -> str | None:
        """Return an address of this kind of object, or None where the route has no such one."""
        names = [part[1:-1] for part in template.split("/") if part.startswith("{")]
        keyed = [name for name in names if name not in FIXED]
        unknown = set(keyed) - set(self.objects["own"])
        assert not unknown, f"{template}: make something that {unknown} names, in each of the two projects"
        if not keyed and kind != "own":
            return None
        if kind == "mixed" and (len(keyed) < 2 or keyed[-1] == "user_id"):  # nobody belongs to a project
            return None
        ids = dict(self.objects["own"] if kind in ("own", "deleted", "mixed") else self.objects["foreign"])
        if kind == "mixed":
            ids[keyed[-1]] = self.objects["foreign"][keyed[-1]]
        if kind == "deleted":
            ids[keyed[-1]] = str(uuid4()) if keyed[-1] != "token" else "x" * 43
        if "/chat/{model_id}/" in template:  # one of the chat's models, not of the registry's
            other = self.objects["foreign" if kind in ("foreign", "mixed") else "own"]
            ids["model_id"] = ids["model_id"] if kind == "deleted" else other["chat_model_id"]
        path = "/".join(
            ids.get(part[1:-1], FIXED.get(part[1:-1], part)) if part.startswith("{") else part
            for part in template.split("/")
        )
        return path + QUERIES.get(template, "")


def make_scene(tmp_path: Path) -> Scene:
    """Make both projects: the first is labeler A's, the second labeler C's, and labeler B is a member of neither."""
    world = make_api_world(tmp_path)
    with transaction() as session:
        labelers = {name: make_user(session, f"{name}@example.org", "labeler") for name in ("a", "b", "c")}
        reviewer = make_user(session, "reviewer@example.org", "reviewer")
        admin = make_user(session, "admin@example.org", "admin")
        own = _desk(session, world.ids, labelers["a"], admin)
        foreign = _desk(session, world.foreign, labelers["c"], admin)
        users = {"labeler A": labelers["a"], "labeler B": labelers["b"], "reviewer": reviewer, "admin": admin}
        answers = [
            str(answer)
            for answer in session.scalars(select(Completion.id).where(Completion.prompt_id == world.ids["prompt_id"]))
        ]
        people = {name: _signed_in(session, user) for name, user in users.items()}
    return Scene(
        {STRANGER: Caller({}), **people},
        {scope: Caller({"Authorization": f"Bearer {world.token([scope])}"}) for scope in SCOPES},
        {"own": own, "foreign": foreign},
        {
            "POST /api/v1/projects/{project_id}/tasks": {"completion_ids": answers},
            "POST /api/v1/projects/{project_id}/runs": {"method": "sample", "model_id": own["model_id"]},
            "POST /api/v1/projects": {"name": "New", "guidelines": "Be kind."},
            "POST /api/v1/projects/{project_id}/blind-evaluations": {
                "run_id": own["run_id"],
                "candidate_id": own["model_id"],
                "incumbent_id": own["model_id"],
            },
            "POST /api/v1/projects/{project_id}/roll-back": {"leaving_id": own["model_id"]},
        },
    )


def _signed_in(session: Session, user: User) -> Caller:
    token = access.open_session(session, user, "test browser")
    found = access.find_session(session, token)
    assert found is not None
    return Caller({"Cookie": f"{cookie_name()}={token}", "X-CSRF-Token": found.csrf_token})


def _desk(session: Session, ids: dict[str, UUID], labeler: User, admin: User) -> dict[str, str]:
    """Add what a labeler and an admin have in a project, and return the ids of everything in it."""
    project = session.get_one(Project, ids["project_id"])
    project.access = "members"
    session.add(Membership(project_id=project.id, user_id=labeler.id, state="active"))
    task = make_task(session, session.get_one(Prompt, ids["prompt_id"]), ["Surely.", "Hardly."])
    guideline = session.scalars(select(GuidelineVersion).where(GuidelineVersion.project_id == project.id)).one()
    completions = list(session.scalars(select(TaskCompletion.completion_id).where(TaskCompletion.task_id == task.id)))
    assignment = Assignment(
        task_id=task.id,
        user_id=labeler.id,
        shown_order=completions,
        guideline_version_id=guideline.id,
        expires_at=func.clock_timestamp() + timedelta(hours=1),
        shown_at=func.clock_timestamp(),
    )
    task.open_leases = 1
    chat = session.get_one(Chat, ids["chat_id"])
    chat.user_id = labeler.id
    candidate = session.scalars(
        select(ModelVersion.id).where(ModelVersion.project_id == project.id, ModelVersion.name == "tuned")
    ).one()
    webhook = Webhook(
        url="https://hooks.example.org/x",
        events=["run.finished"],
        project_id=project.id,
        secret="whsec_AAAA",
        created_by=admin.id,
    )
    session.add(webhook)
    session.flush()
    made = {
        "webhook_id": webhook,
        "delivery_id": WebhookDelivery(webhook_id=webhook.id, event="run.finished", body="{}"),
        "assignment_id": assignment,
        "flag_id": Flag(task_id=task.id, user_id=labeler.id, reason="broken"),
        "evaluation_id": BlindEvaluation(
            project_id=project.id,
            run_id=ids["run_id"],
            candidate_id=candidate,
            incumbent_id=ids["model_id"],
            overlap=1,
            prompts=1,
            identical=0,
            created_by=admin.id,
        ),
        "import_id": Import(
            project_id=project.id,
            dataset="d",
            format="trl",
            judge="human",
            created_by=admin.id,
            report=NOTHING_IMPORTED,
        ),
        "quarantine_id": Quarantine(project_id=project.id, user_id=labeler.id, reason="haste", created_by=admin.id),
        "invitation_id": Invitation(
            email=f"new-{project.name}@example.org",
            role="labeler",
            token_sha256=access.digest(f"invited to {project.name}"),
            invited_by=admin.id,
            expires_at=func.clock_timestamp() + timedelta(days=1),
        ),
        "report_id": AuditEvent(
            actor_id=admin.id,
            action="prompts.imported",
            object_type="project",
            object_id=str(project.id),
            detail={
                "added": 1,
                "train": 1,
                "held_out": 0,
                "duplicates_in_file": 0,
                "duplicates_in_project": 0,
                "ignored_keys": [],
            },
        ),
        "token_id": ApiToken(
            user_id=admin.id,
            name="theirs",
            public_id=project.name,
            secret_sha256=b"",
            scopes=["export:read"],
            expires_at=func.clock_timestamp() + timedelta(days=1),
        ),
    }
    session.add_all(made.values())
    session.flush()
    chat_model = session.scalars(select(ChatModel.id).where(ChatModel.project_id == project.id)).one()
    return {
        **{name: str(value) for name, value in ids.items()},
        **{name: str(row.id) for name, row in made.items()},
        "user_id": str(labeler.id),
        "token": f"invited to {project.name}",
        "chat_model_id": str(chat_model),
    }
