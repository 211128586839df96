"""REST API, version 1: what labelers have given (rankings, demonstrations, chat turns), and figures by labeler."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from app.api.callers import ExportCaller, ExportProject
from app.api.problems import PROBLEMS
from app.api.schemas import Closed, Moment, Page, PageQuery, example, page
from app.db import SessionDep
from app.services.api import answers, labelers

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["answers"])

Origin = Literal["task", "edit", "chat", "adjudication", "import"]
Labeler = Annotated[str, Field(description="a pseudonym, the same in every export and snapshot")]


_GIVEN = {
    "project_id": "0198c0de-0000-7000-8000-000000000001",
    "task_id": "0198c0de-0000-7000-8000-000000000022",
    "prompt_id": "0198c0de-0000-7000-8000-000000000021",
    "labeler": "labeler-5f0c1d2e3a",
    "simulated": False,
    "guideline_version": 2,
    "seconds": 41.5,
    "counted": True,
    "not_counted_reason": None,
    "quarantined": False,
    "supersedes": None,
    "superseded": False,
    "retracts": False,
    "judge": "human",
    "dataset": None,
    "created_at": "2026-11-02T09:00:00Z",
}
"""What the examples of all kinds of answers share."""


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

    model_config = example(
        _GIVEN
        | {
            "id": "0198c0de-0000-7000-8000-000000000031",
            "origin": "task",
            "purpose": "collect",
            "ranking": [["0198c0de-0000-7000-8000-000000000024"], ["0198c0de-0000-7000-8000-000000000023"]],
            "strengths": [2],
            "acceptable": 1,
            "judgements": {"0198c0de-0000-7000-8000-000000000023": {"helpful": 5}},
            "reason": "The second says why.",
            "shown_order": ["0198c0de-0000-7000-8000-000000000023", "0198c0de-0000-7000-8000-000000000024"],
        }
    )
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

    model_config = example(
        _GIVEN
        | {
            "id": "0198c0de-0000-7000-8000-000000000032",
            "completion_id": None,
            "text": "Short light scatters more than long light.",
        }
    )
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

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000033",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "chat_id": "0198c0de-0000-7000-8000-000000000034",
            "number": 1,
            "message": "Why is the sky blue?",
            "answers": [
                {
                    "side": "a",
                    "state": "done",
                    "text": "It scatters.",
                    "endpoint": "local",
                    "model": "base",
                    "finish_reason": "stop",
                },
                {
                    "side": "b",
                    "state": "done",
                    "text": "It is painted.",
                    "endpoint": "local",
                    "model": "dpo-3",
                    "finish_reason": "stop",
                },
            ],
            "state": "judged",
            "chosen": "a",
            "ranking_id": "0198c0de-0000-7000-8000-000000000031",
            "labeler": "labeler-5f0c1d2e3a",
            "simulated": False,
            "guideline_version": 2,
            "created_at": "2026-11-02T09:00:00Z",
            "decided_at": "2026-11-02T09:05:00Z",
        }
    )
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

    model_config = example(
        {
            "labeler": "labeler-5f0c1d2e3a",
            "name": None,
            "email": None,
            "simulated": False,
            "rankings": 210,
            "demonstrations": 4,
            "not_counted": 2,
            "median_seconds": 48.0,
            "first_at": "2026-11-02T09:00:00Z",
            "last_at": "2026-11-27T16:20:00Z",
        }
    )
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
    session: SessionDep, project: ExportProject, asked: Annotated[RankingsQuery, Query()]
) -> Page[RankingOut]:
    """List a project's rankings, also those that are superseded or not counted; the export is the faster way to all."""
    return page(
        asked,
        RankingOut,
        lambda part: answers.rankings(
            session,
            project.id,
            part,
            task_id=asked.task_id,
            origin=asked.origin,
            counted=asked.counted,
            since=asked.since,
            until=asked.until,
        ),
        project.id,
    )


@router.get("/rankings/{ranking_id}")
def read_ranking(ranking_id: UUID, session: SessionDep, caller: ExportCaller) -> RankingOut:
    """Return a ranking."""
    found = answers.ranking(session, ranking_id)
    caller.require_project(found["project_id"])
    return RankingOut(**found)


@router.get("/projects/{project_id}/demonstrations")
def list_demonstrations(
    session: SessionDep, project: ExportProject, asked: Annotated[DemonstrationsQuery, Query()]
) -> Page[DemonstrationOut]:
    """List a project's demonstrations and edits of answers."""
    return page(
        asked,
        DemonstrationOut,
        lambda part: answers.demonstrations(
            session, project.id, part, counted=asked.counted, since=asked.since, until=asked.until
        ),
        project.id,
    )


@router.get("/demonstrations/{demonstration_id}")
def read_demonstration(demonstration_id: UUID, session: SessionDep, caller: ExportCaller) -> DemonstrationOut:
    """Return a demonstration."""
    found = answers.demonstration(session, demonstration_id)
    caller.require_project(found["project_id"])
    return DemonstrationOut(**found)


@router.get("/projects/{project_id}/chat-turns")
def list_chat_turns(
    session: SessionDep, project: ExportProject, asked: Annotated[ChatTurnsQuery, Query()]
) -> Page[ChatTurnOut]:
    """List the turns of a project's live chats."""
    return page(
        asked,
        ChatTurnOut,
        lambda part: answers.chat_turns(session, project.id, part, chat_id=asked.chat_id, state=asked.state),
        project.id,
    )


@router.get("/chat-turns/{turn_id}")
def read_chat_turn(turn_id: UUID, session: SessionDep, caller: ExportCaller) -> ChatTurnOut:
    """Return a turn of a live chat."""
    found = answers.chat_turn(session, turn_id)
    caller.require_project(found["project_id"])
    return ChatTurnOut(**found)


@router.get("/projects/{project_id}/labelers")
def list_labelers(
    session: SessionDep, caller: ExportCaller, project: ExportProject, asked: Annotated[LabelersQuery, Query()]
) -> Page[LabelerOut]:
    """List who has worked in a project, under pseudonyms unless the token may see names, with figures."""
    with_names = "people:read" in caller.scopes
    return page(
        asked,
        LabelerOut,
        lambda part: labelers.statistics(session, project.id, part, with_names=with_names),
        project.id,
    )
