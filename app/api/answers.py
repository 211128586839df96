"""REST API, version 1: what labelers have given (rankings, demonstrations, chat turns), and figures by labeler."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from app.api.callers import ExportCaller
from app.api.problems import PROBLEMS
from app.api.schemas import Closed, Moment, Page, PageQuery, page
from app.db import SessionDep
from app.services.api import answers, labelers
from app.services.projects import projects

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["answers"])

Origin = Literal["task", "edit", "chat", "adjudication", "import"]
Labeler = Annotated[str, Field(description="a pseudonym, the same in every export and snapshot")]


class AnswerOut(Closed):
    """What all answers have: who gave it, under which guidelines, and whether it counts."""

    id: UUID
    project_id: UUID
    task_id: UUID
    prompt_id: UUID
    labeler: Labeler
    simulated: bool
    guideline_version: int
    seconds: float
    counted: bool
    not_counted_reason: str | None
    quarantined: bool
    supersedes: UUID | None
    superseded: bool
    retracts: bool
    judge: Literal["human", "simulated", "ai"] = Field(description="what judged, or wrote a demonstration")
    dataset: str | None = Field(description="where an imported one comes from")
    created_at: datetime


class RankingOut(AnswerOut):
    """A judgement as it was given: `ranking` lists tie groups of completions, the best first.

    Answers that it leaves out stand below them, in no order. The export holds the same with all texts.
    """

    origin: Origin
    purpose: Literal["collect", "gold", "screening", "evaluation"]
    ranking: list[list[UUID]]
    strengths: list[int | None] | None
    acceptable: int | None
    judgements: dict[UUID, dict[str, int | bool | str]]
    reason: str
    shown_order: list[UUID]


class DemonstrationOut(AnswerOut):
    """An ideal answer, or an edit of the answer `completion_id`."""

    completion_id: UUID | None
    text: str


class ChatSideOut(Closed):
    """One of the two answers of a turn."""

    side: Literal["a", "b"]
    state: Literal["waiting", "streaming", "done", "failed"]
    text: str
    endpoint: str
    model: str
    finish_reason: str | None


class ChatTurnOut(Closed):
    """A message of a live chat, its two answers, and which of them the chat went on from."""

    id: UUID
    project_id: UUID
    chat_id: UUID
    number: int
    message: str
    answers: list[ChatSideOut]
    state: Literal["open", "judged", "passed"]
    chosen: Literal["a", "b"] | None
    ranking_id: UUID | None
    labeler: Labeler
    simulated: bool
    guideline_version: int
    created_at: datetime
    decided_at: datetime | None


class LabelerOut(Closed):
    """How much somebody has done in a project. Name and address need the scope people:read, and are null without."""

    labeler: Labeler
    name: str | None
    email: str | None
    simulated: bool
    rankings: int
    demonstrations: int
    not_counted: int
    median_seconds: float | None = Field(description="of a ranking")
    first_at: datetime
    last_at: datetime


class RankingsQuery(PageQuery):
    """Which rankings. `since` is included, `until` is not."""

    task_id: UUID | None = None
    origin: Origin | None = None
    counted: bool | None = None
    since: Moment | None = None
    until: Moment | None = None


class DemonstrationsQuery(PageQuery):
    """Which demonstrations. `since` is included, `until` is not."""

    counted: bool | None = None
    since: Moment | None = None
    until: Moment | None = None


class ChatTurnsQuery(PageQuery):
    """Which turns."""

    chat_id: UUID | None = None
    state: Literal["open", "judged", "passed"] | None = None


class LabelersQuery(PageQuery):
    """Which part of the labelers."""


@router.get("/projects/{project_id}/rankings")
def list_rankings(
    project_id: UUID, session: SessionDep, caller: ExportCaller, asked: Annotated[RankingsQuery, Query()]
) -> Page[RankingOut]:
    """List a project's rankings, also those that are superseded or not counted; the export is the faster way to all."""
    caller.require_project(project_id)
    projects.get(session, project_id)
    return page(
        asked,
        RankingOut,
        lambda part: answers.rankings(
            session,
            project_id,
            part,
            task_id=asked.task_id,
            origin=asked.origin,
            counted=asked.counted,
            since=asked.since,
            until=asked.until,
        ),
        project_id,
    )


@router.get("/rankings/{ranking_id}")
def read_ranking(ranking_id: UUID, session: SessionDep, caller: ExportCaller) -> RankingOut:
    """Return a ranking."""
    found = answers.ranking(session, ranking_id)
    caller.require_project(found["project_id"])
    return RankingOut(**found)


@router.get("/projects/{project_id}/demonstrations")
def list_demonstrations(
    project_id: UUID, session: SessionDep, caller: ExportCaller, asked: Annotated[DemonstrationsQuery, Query()]
) -> Page[DemonstrationOut]:
    """List a project's demonstrations and edits of answers."""
    caller.require_project(project_id)
    projects.get(session, project_id)
    return page(
        asked,
        DemonstrationOut,
        lambda part: answers.demonstrations(
            session, project_id, part, counted=asked.counted, since=asked.since, until=asked.until
        ),
        project_id,
    )


@router.get("/demonstrations/{demonstration_id}")
def read_demonstration(demonstration_id: UUID, session: SessionDep, caller: ExportCaller) -> DemonstrationOut:
    """Return a demonstration."""
    found = answers.demonstration(session, demonstration_id)
    caller.require_project(found["project_id"])
    return DemonstrationOut(**found)


@router.get("/projects/{project_id}/chat-turns")
def list_chat_turns(
    project_id: UUID, session: SessionDep, caller: ExportCaller, asked: Annotated[ChatTurnsQuery, Query()]
) -> Page[ChatTurnOut]:
    """List the turns of a project's live chats."""
    caller.require_project(project_id)
    projects.get(session, project_id)
    return page(
        asked,
        ChatTurnOut,
        lambda part: answers.chat_turns(session, project_id, part, chat_id=asked.chat_id, state=asked.state),
        project_id,
    )


@router.get("/chat-turns/{turn_id}")
def read_chat_turn(turn_id: UUID, session: SessionDep, caller: ExportCaller) -> ChatTurnOut:
    """Return a turn of a live chat."""
    found = answers.chat_turn(session, turn_id)
    caller.require_project(found["project_id"])
    return ChatTurnOut(**found)


@router.get("/projects/{project_id}/labelers")
def list_labelers(
    project_id: UUID, session: SessionDep, caller: ExportCaller, asked: Annotated[LabelersQuery, Query()]
) -> Page[LabelerOut]:
    """List who has worked in a project, under pseudonyms unless the token may see names, with figures."""
    caller.require_project(project_id)
    projects.get(session, project_id)
    with_names = "people:read" in caller.scopes
    return page(
        asked,
        LabelerOut,
        lambda part: labelers.statistics(session, project_id, part, with_names=with_names),
        project_id,
    )
