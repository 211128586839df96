"""A project's chat settings: which served models take part, how often each is drawn, how long a chat may become.

Which servers there are is the operator's word (`PLACKETT_ENDPOINTS`); these pages only pick among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request
from pydantic import Field, field_validator
from starlette.responses import Response

from app.auth import AdminUser, ReviewerUser, page_router
from app.db import SessionDep
from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.forms import FormModel, Submitted, blank, form_of
from app.models import Project
from app.services.chat import chat_models, endpoints
from app.services.chat.chat_models import Limits, Line, NewModel, Source
from app.services.chat.endpoints import SENTENCES, EndpointError, Failure, Question
from app.services.projects import projects
from app.services.training import registry
from app.settings import LOCAL_ENDPOINT, get_settings
from app.streams import Later
from app.templating import redirect, render

router = page_router("/projects/{project_id}/chat")

WORKS = "works"
TEST_QUESTION = "Say hello in one word."


class ModelForm(FormModel):
    """A model that shall take part."""

    source: str = Field(min_length=1, max_length=400)
    name: str = Field(default="", max_length=chat_models.MAX_NAME)
    version_id: UUID | None = None
    weight: int = Field(default=10, ge=1, le=100)
    temperature: float = Field(default=0.8, ge=0, le=2, allow_inf_nan=False)
    max_tokens: int = Field(default=512, ge=1, le=4096)

    @field_validator("version_id", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value


class WeightForm(FormModel):
    """How often a model is drawn."""

    weight: int = Field(ge=1, le=100)


class LimitsForm(FormModel):
    """How long a chat may become."""

    max_turns: int = Field(ge=1, le=200)
    max_characters: int = Field(ge=500, le=400_000)


@dataclass(frozen=True)
class ChatModelsPage:
    """Context of `chat/models.html`. `tested` is the model that was just asked, and `found` the sentence about it."""

    project: Project
    lines: list[Line]
    sources: Sequence[Source]
    choices: Sequence[tuple[str, str]]
    versions: Sequence[tuple[str, str]]
    has_local: bool
    form: Submitted[ModelForm]
    limits: Submitted[LimitsForm]
    may_change: bool
    tested: UUID | None = None
    works: bool = False
    found: str = ""


@router.get("")
def show(
    request: Request,
    project_id: UUID,
    user: ReviewerUser,
    session: SessionDep,
    tested: Annotated[UUID | None, Query()] = None,
    found: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    """Show which models take part."""
    return _page(request, session, project_id, may_change=user.role == "admin", tested=tested, found=found)


@router.post("")
def add(
    request: Request,
    project_id: UUID,
    user: AdminUser,
    session: SessionDep,
    submitted: Annotated[Submitted[ModelForm], Depends(form_of(ModelForm))],
) -> Response:
    """Let a model take part."""
    project = projects.get(session, project_id)
    if submitted.data is None:
        return _page(request, session, project_id, may_change=True, form=submitted, status=422)
    try:
        chat_models.add(session, project, user, NewModel(**submitted.data.model_dump()))
    except (InvalidInputError, NotFoundError, ConflictError) as error:
        refused = submitted.refused(error, "source")
        return _page(request, session, project_id, may_change=True, form=refused, status=error.status)
    return redirect(f"/projects/{project_id}/chat", done="chat-model-added")


@router.post("/limits")
def limit(
    request: Request,
    project_id: UUID,
    user: AdminUser,
    session: SessionDep,
    submitted: Annotated[Submitted[LimitsForm], Depends(form_of(LimitsForm))],
) -> Response:
    """Change how long a chat may become."""
    project = projects.get(session, project_id)
    if submitted.data is None:
        return _page(request, session, project_id, may_change=True, limits=submitted, status=422)
    chat_models.set_limits(session, project, user, Limits(**submitted.data.model_dump()))
    return redirect(f"/projects/{project_id}/chat", done="chat-limits-saved")


@router.post("/{model_id}/weight")
def weigh(
    project_id: UUID,
    model_id: UUID,
    user: AdminUser,
    session: SessionDep,
    submitted: Annotated[Submitted[WeightForm], Depends(form_of(WeightForm))],
) -> Response:
    """Draw a model more or less often."""
    model = chat_models.get(session, project_id, model_id)
    if submitted.data is None:
        raise InvalidInputError("A weight is a whole number from 1 to 100.")
    chat_models.set_weight(session, model, user, submitted.data.weight)
    return redirect(f"/projects/{project_id}/chat", done="chat-model-changed")


@router.post("/{model_id}/remove")
def remove(project_id: UUID, model_id: UUID, user: AdminUser, session: SessionDep) -> Response:
    """Take a model out of later turns."""
    chat_models.remove(session, chat_models.get(session, project_id, model_id), user)
    return redirect(f"/projects/{project_id}/chat", done="chat-model-removed")


@router.post("/{model_id}/test")
def try_out(project_id: UUID, model_id: UUID, _user: AdminUser, session: SessionDep) -> Response:
    """Ask a model for one word; the page then says that it works, or what went wrong. No session is held meanwhile."""
    model = chat_models.get(session, project_id, model_id)
    name = chat_models.address(session, model)
    messages = [{"role": "user", "content": TEST_QUESTION}]
    question = Question(model.endpoint, name, messages, model.temperature, min(model.max_tokens, 16))

    async def ask() -> Response:
        found = WORKS
        try:
            async for _ in endpoints.ask(question):
                pass
        except EndpointError as error:
            found = error.failure.value
        return redirect(f"/projects/{project_id}/chat?tested={model_id}&found={found}")

    return Later(ask)


def _page(
    request: Request,
    session: SessionDep,
    project_id: UUID,
    *,
    may_change: bool,
    form: Submitted[ModelForm] | None = None,
    limits: Submitted[LimitsForm] | None = None,
    tested: UUID | None = None,
    found: str = "",
    status: int = 200,
) -> Response:
    project = projects.get(session, project_id)
    now = chat_models.limits(session, project.id)
    sources = chat_models.sources(session, project.id)
    known = found in {failure.value for failure in Failure}
    page = ChatModelsPage(
        project,
        chat_models.listed(session, project.id),
        sources,
        [(source.key, source.label) for source in sources],
        [(str(policy.id), policy.name) for policy in registry.of_project(session, project.id, "policy")],
        has_local=LOCAL_ENDPOINT in get_settings().allowed_endpoints,
        form=form or blank(weight="10", temperature="0.8", max_tokens="512"),
        limits=limits or blank(max_turns=str(now.max_turns), max_characters=str(now.max_characters)),
        may_change=may_change,
        tested=tested,
        works=found == WORKS,
        found="The model answers." if found == WORKS else SENTENCES[Failure(found)] if known else "",
    )
    return render(request, "chat/models.html", page, status)
