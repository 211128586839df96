"""Every page of the app with something on it: a name, who opens it, and where it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from io import BytesIO
from typing import Any
from uuid import UUID

import chat_world
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import func, null, select, update

from app import db
from app.models import Assignment, AuditEvent, Job, Project, Task, User, Webhook, WebhookDelivery
from app.services.accounts import accounts
from app.services.data import intake
from app.services.labeling import assignments, flags
from app.services.labeling.assignments import TaskKind
from app.services.projects import guidelines, memberships
from app.services.projects.questions import HELPFUL_HONEST_HARMLESS, Questions
from app.services.training import snapshots

from . import texts
from .crowd import make_crowd
from .rivals import make_rivals
from .rounds import make_rounds
from .world import Studio, write_next

NOT_PAGES = {
    "/": "sends everyone on to their first page",
    "/livez": "a probe",
    "/readyz": "a probe",
    "/metrics": "figures for Prometheus",
    "/api/openapi.json": "JSON",
    "/projects/{project_id}/policies.json": "JSON",
    "/models/{model_id}/lineage.json": "a file",
    "/models": "sends on to a project's models",
    "/rounds/{pipeline_id}/live": "a fragment of the page of a round",
    "/runs/{run_id}/live": "a fragment of the page of a run",
    "/projects/{project_id}/jobs/{job_id}/live": "a fragment of the page of a job",
    "/runs/{run_id}/curves/live": "a fragment of the page of curves",
    "/runs/{run_id}/plots/{name}": "a picture",
    "/schedules/next": "a fragment of the form of a schedule",
    "/snapshots/{snapshot_id}/files/{name}": "a file",
}
"""What can be fetched and is no page, with the reason. Whatever is not named here has to stand in `pages_of`."""


def routes_without_a_page(app: FastAPI, paths: Iterable[str]) -> set[str]:
    """Return the routes of the web pages that none of these paths leads to."""
    routes = [
        context.path
        for context in iter_route_contexts(app.routes)
        if context.path and "GET" in (context.methods or ()) and not context.path.startswith("/api/v1/")
    ]
    visited = set()
    for path in paths:
        bare = path.partition("?")[0]
        # The first route that fits is the one that answers, so "/runs/new" is no visit of "/runs/{run_id}".
        visited.add(next((route for route in routes if re.fullmatch(re.sub(r"{\w+}", "[^/]+", route), bare)), ""))
    return set(routes) - visited


def lease(studio: Studio, labeler: User, kind: TaskKind) -> UUID:
    """Hand a task of this kind to the labeler and return the assignment's id."""
    with db.transaction() as session:
        taken = assignments.claim(session, studio.project, labeler, kind)
    assert taken is not None
    return taken


def invitation(admin: User, email: str = "lena@example.org") -> str:
    """Invite a labeler and return the path of the link."""
    with db.transaction() as session:
        token, _ = accounts.invite(session, admin, email, "labeler")
    return f"/invite/{token}"


Talk = Mapping[str, tuple[str, str]]
"""The messages of a chat, with both answers to each."""


def chat(studio: Studio, labeler: User, talk: Talk, models: Sequence[str]) -> str:
    """Let models take part in chats, lead one to its last comparison, and return its path."""
    chat_world.add_models(studio.project.id, studio.admin, models)
    with db.transaction() as session:
        hands = chat_world.start(session, studio.project.id, labeler)
    for number, (message, answers) in enumerate(talk.items(), start=1):
        hands.say(message, number)
        hands.get(*answers, number)
        if number < len(talk):
            hands.choose("a2", number)
    return f"/work/chats/{hands.chat_id}"


def make_news(studio: Studio, reader: User) -> None:
    """Give the studio what happens around its tasks: new guidelines, which `reader` has read, tags, members, a flag."""
    project, veteran = studio.project, studio.labeler
    with db.transaction() as session:
        before = guidelines.current(session, project.id)
        guidelines.mark_read(session, project.id, veteran, before.version_id)
        body = before.body.replace("a dull sentence", "a dull one").replace("**Short**", "**Brief**")
        asked = Questions(strength="required", criteria=HELPFUL_HONEST_HARMLESS)
        guidelines.revise(session, project, studio.admin, f"{body}\n\nSay why you skip.", asked)
        guidelines.mark_read(session, project.id, reader, guidelines.current(session, project.id).version_id)
        memberships.set_state(session, project, veteran.id, studio.admin, "active")
        accounts.set_tags(session, studio.admin, veteran.id, "lang:de, medicine")
        done = session.scalars(select(Assignment).where(Assignment.user_id == veteran.id).limit(1)).one()
        flags.add(session, done.id, veteran, "guidelines", "This asks for medical advice. Which answer is right then?")
        session.execute(update(Task).where(Task.id == done.task_id).values(required_tags=["medicine"], priority=5))


def import_rankings(studio: Studio) -> str:
    """Import two rankings, of which one holds nothing to take, and return the id of the import."""
    pair = {
        "prompt": "Why is the sky blue?",
        "chosen": "Air scatters blue light most.",
        "rejected": "It mirrors the sea.",
    }
    lines = json.dumps(pair).encode() + b'\n{"prompt": "", "chosen": "", "rejected": ""}\n'
    with db.transaction() as session:
        project = session.get_one(Project, studio.project.id)
        admin = session.get_one(User, studio.admin.id)
        return intake.import_file(
            session, project, admin, BytesIO(lines), format_name="trl-text", dataset="a small file"
        ).import_id


def running_job(studio: Studio) -> UUID:
    """Return the id of an import that a worker is in the middle of."""
    with db.transaction() as session:
        job = Job(
            project_id=studio.project.id,
            kind="import",
            state="running",
            asked={"dataset": "hh-rlhf", "format": "hh", "judge": None},
            attempt=1,
            progress=0.42,
            lease_until=func.clock_timestamp() + timedelta(hours=1),
            started_at=func.clock_timestamp() - timedelta(minutes=3),
            created_by=studio.admin.id,
        )
        session.add(job)
        session.flush()
        return job.id


def later_snapshot(studio: Studio) -> UUID:
    """Freeze what has come since the studio's snapshot, one demonstration more, and return its id."""
    with db.transaction() as session:
        write_next(session, session.get_one(Project, studio.project.id), studio.labeler, "Because blue light bends.")
    with db.transaction() as session:
        project = session.get_one(Project, studio.project.id)
        return snapshots.create(session, project, session.get_one(User, studio.admin.id)).id


def webhook(studio: Studio) -> UUID:
    """Give the project a webhook with messages in each state, and return its id."""
    with db.transaction() as session:
        made = Webhook(
            url="https://hooks.example.org/plackett/weekly",
            events=["run.finished", "snapshot.ready"],
            project_id=studio.project.id,
            secret="whsec_AAAA",
            failures=3,
            created_by=studio.admin.id,
        )
        session.add(made)
        session.flush()
        body = f'{{"type":"run.finished","data":{{"run_id":"{studio.running.id}","name":"PPO","state":"failed"}}}}'
        now = func.clock_timestamp()
        states: list[dict[str, Any]] = [
            {"state": "delivered", "next_at": null(), "last_status": 204, "delivered_at": now, "attempts": 1},
            {
                "state": "failed",
                "next_at": null(),
                "last_problem": "It answered 500.",
                "attempts": 10,
            },
            {"last_problem": "It did not answer within 10 seconds.", "attempts": 3},
        ]
        for values in states:
            session.add(WebhookDelivery(webhook_id=made.id, event="run.finished", body=body, last_at=now, **values))
        return made.id


def pages_of(
    studio: Studio,
    labeler: User,
    talk: Talk = texts.CHAT,
    chat_models: Sequence[str] = ("policy-candidate", "policy-in-use"),
) -> Mapping[str, tuple[User | None, str]]:
    """Return every page by name. The labeler is one who has no task in hand yet."""
    admin, project = studio.admin, f"/projects/{studio.project.id}"
    with db.transaction() as session:
        imported = session.scalars(select(AuditEvent.id).where(AuditEvent.action == "prompts.imported")).one()
    crowd = make_crowd(admin)
    rivals = make_rivals(admin)
    quality = f"/projects/{crowd.project.id}/quality"
    ranking, writing = (f"/work/assignments/{lease(studio, labeler, kind)}" for kind in ("ranking", "demonstration"))
    make_news(studio, labeler)
    loop = make_rounds(studio)
    desk, veteran = f"/work/{studio.project.id}", studio.labeler
    return {
        "sign-in": (None, "/sign-in"),
        "invitation": (None, invitation(admin)),
        "work": (labeler, "/work"),
        "ranking": (labeler, ranking),
        "demonstration": (labeler, writing),
        "chat": (labeler, chat(studio, labeler, talk, chat_models)),
        "chats": (labeler, "/work/chats"),
        "chat models": (admin, f"{project}/chat"),
        "what is new": (veteran, f"{desk}/guidelines"),
        "own answers": (veteran, f"{desk}/mine"),
        "account": (labeler, "/account"),
        "projects": (admin, "/projects"),
        "new project": (admin, "/projects/new"),
        "project": (admin, project),
        "prompts": (admin, f"{project}/prompts"),
        "import": (admin, f"{project}/prompts/import"),
        "imported": (admin, f"{project}/prompts/imported/{imported}"),
        "import rankings": (admin, f"{project}/import"),
        "job": (admin, f"{project}/jobs/{running_job(studio)}"),
        "imported rankings": (admin, f"{project}/imports/{import_rankings(studio)}"),
        "guidelines": (admin, f"{project}/guidelines"),
        "tasks": (admin, f"{project}/tasks"),
        "leases": (admin, f"{project}/leases"),
        "flags": (admin, f"{project}/flags"),
        "settings": (admin, f"{project}/settings"),
        "members": (admin, f"{project}/members"),
        "quality": (admin, quality),
        "set aside": (admin, f"{quality}/set-aside"),
        "disagreements": (admin, f"{quality}/disagreements"),
        "disagreement": (admin, f"{quality}/disagreements/{crowd.contested}"),
        "known answers": (admin, f"{quality}/known"),
        "new known answer": (admin, f"{quality}/known/new/{crowd.fresh}"),
        "snapshots": (admin, f"{project}/snapshots"),
        "snapshot": (admin, f"/snapshots/{studio.snapshot.id}"),
        "data card": (admin, f"/snapshots/{studio.snapshot.id}/card"),
        "difference": (admin, f"/snapshots/{studio.snapshot.id}/difference?other={later_snapshot(studio)}"),
        "runs": (admin, f"{project}/runs"),
        "all runs": (admin, "/runs"),
        "new run": (admin, f"/runs/new?project={studio.project.id}&method=ppo"),
        "run": (admin, f"/runs/{studio.running.id}"),
        "curves": (admin, f"/runs/{studio.running.id}/curves?with={studio.earlier.id}"),
        "samples": (admin, f"/runs/{studio.running.id}/samples"),
        "models": (admin, f"{project}/models"),
        "model": (admin, f"/models/{studio.models['dpo-1'].id}"),
        "blind evaluations": (admin, f"/projects/{rivals.project.id}/blind"),
        "blind evaluation": (admin, f"/blind/{rivals.stopped}"),
        "policies": (admin, f"/projects/{rivals.project.id}/policies"),
        "lineage": (admin, f"/models/{studio.models['ppo-1'].id}/lineage"),
        "gate": (admin, f"/projects/{rivals.project.id}/gate"),
        "rounds": (admin, f"{project}/rounds"),
        "round": (admin, f"/rounds/{loop.running}"),
        "failed round": (admin, f"/rounds/{loop.failed}"),
        "schedules": (admin, f"{project}/schedules"),
        "schedule": (admin, f"/schedules/{loop.schedule}"),
        "new schedule": (admin, f"{project}/schedules/new"),
        "edit schedule": (admin, f"/schedules/{loop.schedule}/edit"),
        "people": (admin, "/people"),
        "tokens": (admin, "/tokens"),
        "webhooks": (admin, "/webhooks"),
        "operations": (admin, "/operations"),
        "webhook": (admin, f"/webhooks/{webhook(studio)}"),
        "api": (admin, "/api/docs"),
        "not found": (admin, f"{project}/nowhere"),
    }
