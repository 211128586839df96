"""REST API, version 1: who works in a project."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from app.api.callers import PeopleProject, TasksCaller, TasksProject
from app.api.once import json_only
from app.api.problems import PROBLEMS, WRITES
from app.api.schemas import Closed, Page, PageQuery, example, page
from app.db import SessionDep
from app.services.accounts import tokens
from app.services.api import evaluations
from app.services.projects import memberships

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["projects"])

Standing = Literal["screening", "active", "rejected", "removed"]


_STANDING = {
    "project_id": "0198c0de-0000-7000-8000-000000000001",
    "user_id": "0198c0de-0000-7000-8000-000000000002",
    "state": "active",
    "score": 0.82,
    "created_at": "2026-11-02T09:00:00Z",
}


class StandingOut(Closed):
    """A person's standing in a project. `score` is their agreement in the trial, 0 to 1."""

    model_config = example(_STANDING)
    project_id: UUID
    user_id: UUID
    state: Standing
    score: float | None
    created_at: datetime


class MemberOut(StandingOut):
    """A standing, and whose it is."""

    model_config = example(
        _STANDING
        | {
            "name": "Ada",
            "email": "ada@example.org",
            "tags": ["lang:de"],
        }
    )
    name: str
    email: str
    tags: list[str]


class MemberIn(Closed):
    """What becomes of a person: on trial, let in, turned down or taken out."""

    model_config = example({"state": "active"})
    state: Standing


class MembersQuery(PageQuery):
    """Which part of the members."""


@router.get("/projects/{project_id}/members")
def list_members(
    session: SessionDep, project: PeopleProject, asked: Annotated[MembersQuery, Query()]
) -> Page[MemberOut]:
    """List everybody who has a standing in a project, with name and address."""
    return page(asked, MemberOut, lambda part: evaluations.members(session, project.id, part), project.id)


@router.put("/projects/{project_id}/members/{user_id}", responses=WRITES, dependencies=[Depends(json_only)])
def set_member(
    user_id: UUID, sent: MemberIn, session: SessionDep, caller: TasksCaller, project: TasksProject
) -> StandingOut:
    """Let somebody in, put them on trial, turn them down or take them out; once more changes nothing."""
    evaluations.require_person(session, user_id)
    memberships.set_state(session, project, user_id, tokens.maker(session, caller), sent.state)
    session.flush()
    found = evaluations.member(session, project.id, user_id)
    return StandingOut(**{name: found[name] for name in StandingOut.model_fields})
