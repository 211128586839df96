"""The export of rankings, lossless and streamed: one moment of the database, constant memory, a fixed order.

Everything is in it, also what is superseded or not counted; flags say so. Nothing is flattened: ties stay ties.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Row, select
from sqlalchemy.orm import Session, aliased

from app.models import Completion, GuidelineVersion, ModelVersion, Prompt, Ranking, Task, TaskCompletion, User
from app.services import pseudonyms, quarantines

BATCH = 500


class ExportedMessage(BaseModel):
    """One turn of the prompt's conversation."""

    model_config = ConfigDict(extra="forbid")
    role: str
    content: str


class ExportedPrompt(BaseModel):
    """The prompt, and the side of the split it is on for ever."""

    model_config = ConfigDict(extra="forbid")
    id: UUID
    split: Literal["train", "held_out"]
    messages: list[ExportedMessage]


class ExportedCompletion(BaseModel):
    """One of the ranked answers and where it came from; an edit names the answer it improves as `parent_id`."""

    model_config = ConfigDict(extra="forbid")
    id: UUID
    text: str
    source: Literal["model", "human", "edit"]
    parent_id: UUID | None
    model_version_id: UUID | None
    model_version: str | None
    finish_reason: str | None


class ExportedRanking(BaseModel):
    """One line of the export: a labeler's judgement as it was given.

    `ranking` lists tie groups, the best first; answers it leaves out stand below them, in no order. `strengths` says
    how much better each group is than the next (1 slightly, 2 clearly, 3 much, null where nobody said), `acceptable`
    how many of the first groups are acceptable. `judgements` holds the answers to the criteria by completion.
    `purpose` is `collect` but for tasks whose answer is known, `retracts` marks an undo, `quarantined` what no
    snapshot takes now.
    """

    model_config = ConfigDict(extra="forbid")
    schema_version: Literal[1] = 1
    id: UUID
    project_id: UUID
    task_id: UUID
    prompt: ExportedPrompt
    completions: list[ExportedCompletion]
    origin: Literal["task", "edit", "chat", "adjudication"]
    purpose: Literal["collect", "gold", "screening"]
    ranking: list[list[UUID]]
    strengths: list[int | None] | None
    acceptable: int | None
    judgements: dict[UUID, dict[str, int | bool | str]]
    reason: str
    shown_order: list[UUID]
    labeler: str
    guideline_version: int
    seconds: float
    simulated: bool
    counted: bool
    not_counted_reason: str | None
    quarantined: bool
    supersedes: UUID | None
    superseded: bool
    retracts: bool
    created_at: datetime


def ranking_lines(session: Session, project_id: UUID) -> Generator[bytes, None, None]:
    """Yield the project's rankings in the order they were given, as JSON lines."""
    later = aliased(Ranking)
    query = (
        select(
            Ranking,
            Prompt.id.label("prompt_id"),
            Prompt.split,
            Prompt.messages,
            User.email,
            GuidelineVersion.version,
            later.id.label("later_id"),
            Task.purpose,
            quarantines.is_set_aside(Ranking).label("quarantined"),
        )
        .join(Task, Task.id == Ranking.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(User, User.id == Ranking.user_id)
        .join(GuidelineVersion, GuidelineVersion.id == Ranking.guideline_version_id)
        .outerjoin(later, later.supersedes == Ranking.id)
        .where(Ranking.project_id == project_id)
        .order_by(Ranking.created_at, Ranking.id)
    )
    # yield_per makes this a cursor on the server: one batch of rows is in memory, however many there are.
    with session.execute(query.execution_options(yield_per=BATCH)) as rows:
        for batch in rows.partitions():
            answers = _completions(session, {row.Ranking.task_id for row in batch})
            yield b"".join(
                _record(row, answers[row.Ranking.task_id]).model_dump_json().encode() + b"\n" for row in batch
            )


def _completions(session: Session, task_ids: set[UUID]) -> dict[UUID, list[ExportedCompletion]]:
    answers: dict[UUID, list[ExportedCompletion]] = defaultdict(list)
    rows = session.execute(
        select(
            TaskCompletion.task_id,
            Completion.id,
            Completion.text,
            Completion.source,
            Completion.parent_id,
            Completion.model_version_id,
            ModelVersion.name,
            Completion.finish_reason,
        )
        .join(Completion, Completion.id == TaskCompletion.completion_id)
        .outerjoin(ModelVersion, ModelVersion.id == Completion.model_version_id)
        .where(TaskCompletion.task_id.in_(task_ids))
        .order_by(TaskCompletion.task_id, TaskCompletion.position)
    )
    for row in rows:
        answers[row.task_id].append(
            ExportedCompletion(
                id=row.id,
                text=row.text,
                source=row.source,
                parent_id=row.parent_id,
                model_version_id=row.model_version_id,
                model_version=row.name,
                finish_reason=row.finish_reason,
            )
        )
    return answers


def _record(row: Row[Any], completions: Sequence[ExportedCompletion]) -> ExportedRanking:
    ranking: Ranking = row.Ranking
    return ExportedRanking(
        id=ranking.id,
        project_id=ranking.project_id,
        task_id=ranking.task_id,
        prompt=ExportedPrompt(id=row.prompt_id, split=row.split, messages=row.messages),
        completions=list(completions),
        origin=ranking.origin,
        purpose=row.purpose,
        ranking=ranking.groups,
        strengths=ranking.strengths,
        acceptable=ranking.acceptable,
        judgements=ranking.judgements,
        reason=ranking.reason,
        shown_order=ranking.shown_order,
        labeler=pseudonyms.of_labeler(row.email),
        guideline_version=row.version,
        seconds=ranking.seconds,
        simulated=ranking.is_simulated,
        counted=ranking.counted,
        not_counted_reason=ranking.not_counted_reason,
        quarantined=row.quarantined,
        supersedes=ranking.supersedes,
        superseded=row.later_id is not None,
        retracts=ranking.retracts,
        created_at=ranking.created_at,
    )
