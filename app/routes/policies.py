"""The table of a project's policies, by people and by the reward model: a page, and the same as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from fastapi import Request
from starlette.responses import JSONResponse, Response

from app.auth import ReviewerUser, page_router
from app.db import SessionDep
from app.models import Project
from app.services.evaluation import policy_table
from app.services.evaluation.policy_table import Table
from app.services.projects import projects
from app.templating import render

router = page_router()


@dataclass(frozen=True)
class PoliciesPage:
    """Context of `evaluations/policies.html`."""

    project: Project
    people: Table
    reward_model: Table


@router.get("/projects/{project_id}/policies")
def show(request: Request, session: SessionDep, _user: ReviewerUser, project_id: UUID) -> Response:
    """Show which policy is how strong."""
    project = projects.get(session, project_id)
    people = policy_table.of_people(session, project.id)
    page = PoliciesPage(project, people, policy_table.of_reward_model(session, project.id))
    return render(request, "evaluations/policies.html", page)


@router.get("/projects/{project_id}/policies.json")
def as_json(session: SessionDep, _user: ReviewerUser, project_id: UUID) -> Response:
    """Send the same for programs."""
    project = projects.get(session, project_id)
    return JSONResponse(
        {
            "project": {"id": str(project.id), "name": project.name},
            "by_people": policy_table.as_json(policy_table.of_people(session, project.id)),
            "by_reward_model": policy_table.as_json(policy_table.of_reward_model(session, project.id)),
        }
    )
