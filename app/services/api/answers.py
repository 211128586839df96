"""What labelers have given, as the API lists it: rankings, demonstrations and chat turns.

Whoever gave it stands there under a pseudonym, which is a hash of the address and so is made here, not by the database.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from app.models import (
    Chat,
    ChatAnswer,
    ChatModel,
    ChatTurn,
    Demonstration,
    GuidelineVersion,
    Import,
    Ranking,
    Task,
    User,
)
from app.services.api.listing import Fields, Listing, Part, one, page
from app.services.data import pseudonyms
from app.services.labeling import answered
from app.services.quality import quarantines

_RANKINGS = (
    select(
        Ranking.id,
        Ranking.project_id,
        Ranking.task_id,
        Task.prompt_id,
        Ranking.origin,
        Task.purpose,
        Ranking.groups.label("ranking"),
        Ranking.strengths,
        Ranking.acceptable,
        Ranking.judgements,
        Ranking.reason,
        Ranking.shown_order,
        User.email,
        Ranking.is_simulated.label("simulated"),
        Import.judge,
        Import.dataset,
        GuidelineVersion.version.label("guideline_version"),
        Ranking.seconds,
        Ranking.counted,
        Ranking.not_counted_reason,
        quarantines.is_set_aside(Ranking).label("quarantined"),
        Ranking.supersedes,
        (~answered.is_latest(Ranking)).label("superseded"),
        Ranking.retracts,
        Ranking.created_at,
    )
    .join(Task, Task.id == Ranking.task_id)
    .join(User, User.id == Ranking.user_id)
    .join(GuidelineVersion, GuidelineVersion.id == Ranking.guideline_version_id)
    .outerjoin(Import, Import.id == Ranking.import_id)
)
_DEMONSTRATIONS = (
    select(
        Demonstration.id,
        Demonstration.project_id,
        Demonstration.task_id,
        Task.prompt_id,
        Demonstration.completion_id,
        Demonstration.text,
        User.email,
        Demonstration.is_simulated.label("simulated"),
        Import.judge,
        Import.dataset,
        GuidelineVersion.version.label("guideline_version"),
        Demonstration.seconds,
        Demonstration.counted,
        Demonstration.not_counted_reason,
        quarantines.is_set_aside(Demonstration).label("quarantined"),
        Demonstration.supersedes,
        (~answered.is_latest(Demonstration)).label("superseded"),
        Demonstration.retracts,
        Demonstration.created_at,
    )
    .join(Task, Task.id == Demonstration.task_id)
    .join(User, User.id == Demonstration.user_id)
    .join(GuidelineVersion, GuidelineVersion.id == Demonstration.guideline_version_id)
    .outerjoin(Import, Import.id == Demonstration.import_id)
)
_SIDES = (
    select(
        func.json_agg(
            aggregate_order_by(
                func.json_build_object(
                    "side",
                    ChatAnswer.side,
                    "state",
                    ChatAnswer.state,
                    "text",
                    ChatAnswer.text,
                    "endpoint",
                    ChatModel.endpoint,
                    "model",
                    ChatModel.model,
                    "finish_reason",
                    ChatAnswer.finish_reason,
                ),
                ChatAnswer.side,
            )
        )
    )
    .join(ChatModel, ChatModel.id == ChatAnswer.chat_model_id)
    .where(ChatAnswer.turn_id == ChatTurn.id)
    .correlate(ChatTurn)
    .scalar_subquery()
)
_CHAT_TURNS = (
    select(
        ChatTurn.id,
        Chat.project_id,
        ChatTurn.chat_id,
        ChatTurn.number,
        ChatTurn.message,
        func.coalesce(_SIDES, func.json_build_array()).label("answers"),
        ChatTurn.state,
        ChatTurn.chosen,
        ChatTurn.ranking_id,
        User.email,
        User.is_simulated.label("simulated"),
        GuidelineVersion.version.label("guideline_version"),
        ChatTurn.created_at,
        ChatTurn.decided_at,
    )
    .join(Chat, Chat.id == ChatTurn.chat_id)
    .join(User, User.id == Chat.user_id)
    .join(GuidelineVersion, GuidelineVersion.id == ChatTurn.guideline_version_id)
)


def rankings(
    session: Session,
    project_id: UUID,
    part: Part,
    *,
    task_id: UUID | None = None,
    origin: str | None = None,
    counted: bool | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Listing:
    """Return a project's rankings, also those that are superseded or not counted: flags say so."""
    conditions = [Ranking.project_id == project_id, *_range(Ranking, since, until)]
    if task_id is not None:
        conditions.append(Ranking.task_id == task_id)
    if origin is not None:
        conditions.append(Ranking.origin == origin)
    if counted is not None:
        conditions.append(Ranking.counted.is_(counted))
    return _named(page(session, _RANKINGS.where(*conditions), Ranking.id, part))


def ranking(session: Session, ranking_id: UUID) -> Fields:
    """Return a ranking, or raise `NotFoundError`."""
    return _with_pseudonym(one(session, _RANKINGS, Ranking.id, ranking_id))


def demonstrations(
    session: Session,
    project_id: UUID,
    part: Part,
    *,
    counted: bool | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Listing:
    """Return a project's demonstrations and edits of answers, with their flags."""
    conditions = [Demonstration.project_id == project_id, *_range(Demonstration, since, until)]
    if counted is not None:
        conditions.append(Demonstration.counted.is_(counted))
    return _named(page(session, _DEMONSTRATIONS.where(*conditions), Demonstration.id, part))


def demonstration(session: Session, demonstration_id: UUID) -> Fields:
    """Return a demonstration, or raise `NotFoundError`."""
    return _with_pseudonym(one(session, _DEMONSTRATIONS, Demonstration.id, demonstration_id))


def chat_turns(
    session: Session, project_id: UUID, part: Part, *, chat_id: UUID | None = None, state: str | None = None
) -> Listing:
    """Return the turns of a project's chats."""
    query = _CHAT_TURNS.where(Chat.project_id == project_id)
    if chat_id is not None:
        query = query.where(Chat.id == chat_id)
    if state is not None:
        query = query.where(ChatTurn.state == state)
    return _named(page(session, query, ChatTurn.id, part))


def chat_turn(session: Session, turn_id: UUID) -> Fields:
    """Return a turn of a chat, or raise `NotFoundError`."""
    return _with_pseudonym(one(session, _CHAT_TURNS, ChatTurn.id, turn_id))


def _range(
    table: type[Ranking] | type[Demonstration], since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if since is not None:
        found.append(table.created_at >= since)
    if until is not None:
        found.append(table.created_at < until)
    return found


def _named(listing: Listing) -> Listing:
    return replace(listing, rows=[_with_pseudonym(row) for row in listing.rows])


def _with_pseudonym(row: Fields) -> Fields:
    """Return the row with the labeler's pseudonym instead of the address, and with what judged where that is known."""
    named: dict[str, Any] = {**row, "labeler": pseudonyms.of_labeler(row["email"])}
    del named["email"]
    if "judge" in named:
        named["judge"] = "ai" if row["judge"] == "ai" else "simulated" if row["simulated"] else "human"
    return named
