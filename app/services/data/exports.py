"""The export of rankings, lossless and streamed: one moment of the database, constant memory, a fixed order.

PostgreSQL writes the lines itself (`COPY`), so that the web process only passes bytes on. Everything is in them, also
what is superseded or not counted; flags say so. Nothing is flattened: ties stay ties. An export goes on after any
line, by its id.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import (
    ColumnElement,
    Select,
    TableValuedAlias,
    Text,
    exists,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Session

from app.errors import InvalidInputError
from app.models import Assignment, Demonstration, GuidelineVersion, Import, Prompt, Ranking, Task, User
from app.services.data import pseudonyms
from app.services.data.copying import copied
from app.services.labeling import answered, standing
from app.services.quality import quarantines

Judge = Literal["human", "simulated", "ai"]
Split = Literal["train", "held_out"]
Source = Literal["rankings", "prompts", "demonstrations"]
Origin = Literal["task", "edit", "chat", "adjudication", "import"]


class ExportedMessage(BaseModel):
    """One turn of the prompt's conversation."""

    model_config = ConfigDict(extra="forbid")
    role: str
    content: str


class ExportedPrompt(BaseModel):
    """The prompt, and the side of the split it is on for ever."""

    model_config = ConfigDict(extra="forbid")
    id: UUID
    split: Split
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
    `judge` says what judged, `dataset` where a ranking of the origin `import` comes from. `purpose` is `collect` but
    for tasks whose answer is known and for those that compare policies blind (`evaluation`), `retracts` marks an undo,
    `quarantined` what no snapshot takes now.
    """

    model_config = ConfigDict(extra="forbid")
    schema_version: Literal[1] = 1
    id: UUID
    project_id: UUID
    task_id: UUID
    prompt: ExportedPrompt
    completions: list[ExportedCompletion]
    origin: Origin
    purpose: Literal["collect", "gold", "screening", "evaluation"]
    ranking: list[list[UUID]]
    strengths: list[int | None] | None
    acceptable: int | None
    judgements: dict[UUID, dict[str, int | bool | str]]
    reason: str
    shown_order: list[UUID]
    labeler: str
    judge: Judge
    guideline_version: int
    seconds: float
    simulated: bool
    counted: bool
    not_counted_reason: str | None
    quarantined: bool
    dataset: str | None
    supersedes: UUID | None
    superseded: bool
    retracts: bool
    created_at: datetime


class Filters(BaseModel):
    """Which part of a project is exported; what is not named does not narrow.

    `state=current` leaves out what is superseded, taken back, not counted, quarantined or replaced by an adjudication,
    and tasks that measure labelers or policies: what is left is what a snapshot takes. `since` is included, `until` is
    not. `after` is the id of the last line that the caller has.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    labeler: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    guideline_version: int | None = Field(None, ge=0, le=2**31 - 1)
    judge: Judge | None = None
    origin: Origin | None = None
    split: Split | None = None
    counted: bool | None = None
    state: Literal["all", "current"] | None = None
    after: UUID | None = None


# Each stands beside the row that it is about. `row_to_json` rather than `json_build_object`: it writes no spaces.
_COMPLETIONS = """
    array_to_json(ARRAY(
        SELECT row_to_json(answer)
        FROM task_completions place
        JOIN completions completion ON completion.id = place.completion_id
        LEFT JOIN model_versions model ON model.id = completion.model_version_id,
        LATERAL (
            SELECT completion.id, completion.text, completion.source, completion.parent_id,
                   completion.model_version_id,
                   coalesce(model.name, completion.sampling->>'model') AS model_version,
                   completion.finish_reason
        ) answer
        WHERE place.task_id = rankings.task_id
        ORDER BY place.position
    ))
"""
_PROMPT = """
    (SELECT row_to_json(side) FROM (SELECT prompts.id, prompts.split, prompts.messages) side)
"""
DEMONSTRATION_JUDGE = """
    CASE WHEN EXISTS (SELECT FROM imports WHERE imports.id = demonstrations.import_id AND imports.judge = 'ai')
         THEN 'ai' WHEN demonstrations.is_simulated THEN 'simulated' ELSE 'human' END
"""
RANKING_JUDGE = "CASE WHEN imports.judge = 'ai' THEN 'ai' WHEN rankings.is_simulated THEN 'simulated' ELSE 'human' END"


def ranking_lines(session: Session, project_id: UUID, filters: Filters | None = None) -> Generator[bytes, None, None]:
    """Yield the project's rankings in the order they were given, as JSON lines, many in a chunk."""
    yield from copied(session, as_json(selected(session, "rankings", project_id, filters or Filters())))


def selected(session: Session, source: Source, project_id: UUID, filters: Filters) -> Select[Any]:
    """Return the statement of all that the filters choose, in its order; raise `InvalidInputError` on a bad one."""
    return _SELECTED[source](session, project_id, filters)


def as_json(statement: Select[Any], limit: int | None = None) -> Select[tuple[str]]:
    """Return the statement whose only column is the JSON of each row."""
    line = statement.limit(limit).subquery("line")
    return select(literal_column("row_to_json(line)::text")).select_from(line)


def last_of_page(session: Session, statement: Select[Any], limit: int) -> UUID | None:
    """Return the id of the last of the first so many rows, by which the next page begins; None if no more follow."""
    line = statement.offset(limit - 1).limit(2).subquery("line")
    ids = session.scalars(select(line.c.id)).all()
    return ids[0] if len(ids) > 1 else None


def _rankings(session: Session, project_id: UUID, filters: Filters) -> Select[Any]:
    names = _names(_chosen(session, project_id, filters))
    line = (
        select(
            literal_column("1").label("schema_version"),
            Ranking.id,
            Ranking.project_id,
            Ranking.task_id,
            literal_column(_PROMPT).label("prompt"),
            literal_column(_COMPLETIONS).label("completions"),
            Ranking.origin,
            Task.purpose,
            Ranking.groups.label("ranking"),
            Ranking.strengths,
            Ranking.acceptable,
            Ranking.judgements,
            Ranking.reason,
            Ranking.shown_order,
            names.c.name.label("labeler"),
            literal_column(RANKING_JUDGE).label("judge"),
            GuidelineVersion.version.label("guideline_version"),
            Ranking.seconds,
            Ranking.is_simulated.label("simulated"),
            Ranking.counted,
            Ranking.not_counted_reason,
            quarantines.is_set_aside(Ranking).label("quarantined"),
            Import.dataset,
            Ranking.supersedes,
            (~answered.is_latest(Ranking)).label("superseded"),
            Ranking.retracts,
            Ranking.created_at,
        )
        .join(Task, Task.id == Ranking.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(GuidelineVersion, GuidelineVersion.id == Ranking.guideline_version_id)
        .join(names, names.c.user_id == Ranking.user_id)
        .outerjoin(Import, Import.id == Ranking.import_id)
        .where(Ranking.project_id == project_id, *_conditions(filters))
    )
    if filters.after is not None:
        since = session.scalar(
            select(Ranking.created_at).where(Ranking.id == filters.after, Ranking.project_id == project_id)
        )
        if since is None:
            raise InvalidInputError("“after” is no id of a ranking of this project.")
        line = line.where(tuple_(Ranking.created_at, Ranking.id) > tuple_(since, filters.after))
    return line.order_by(Ranking.created_at, Ranking.id)


def _prompts(session: Session, project_id: UUID, filters: Filters) -> Select[Any]:
    line = select(Prompt.id, Prompt.id.label("prompt_id"), Prompt.split, Prompt.messages, Prompt.position).where(
        Prompt.project_id == project_id, *([Prompt.split == filters.split] if filters.split else [])
    )
    if filters.after is not None:
        place = session.scalar(
            select(Prompt.position).where(Prompt.id == filters.after, Prompt.project_id == project_id)
        )
        if place is None:
            raise InvalidInputError("“after” is no id of a prompt of this project.")
        line = line.where(Prompt.position > place)
    return line.order_by(Prompt.position)


def _demonstrations(session: Session, project_id: UUID, filters: Filters) -> Select[Any]:
    names = _names(_chosen(session, project_id, filters))
    line = (
        select(
            Demonstration.id,
            Prompt.id.label("prompt_id"),
            Prompt.split,
            Prompt.messages,
            Demonstration.text.label("completion"),
            names.c.name.label("labeler"),
            literal_column(DEMONSTRATION_JUDGE).label("judge"),
            Demonstration.created_at,
        )
        .join(Task, Task.id == Demonstration.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(GuidelineVersion, GuidelineVersion.id == Demonstration.guideline_version_id)
        .join(names, names.c.user_id == Demonstration.user_id)
        .where(
            Demonstration.project_id == project_id,
            *standing.demonstrations(),
            *_shared_conditions(filters, Demonstration),
        )
    )
    if filters.after is not None:
        since = session.scalar(
            select(Demonstration.created_at).where(
                Demonstration.id == filters.after, Demonstration.project_id == project_id
            )
        )
        if since is None:
            raise InvalidInputError("“after” is no id of a demonstration of this project.")
        line = line.where(tuple_(Demonstration.created_at, Demonstration.id) > tuple_(since, filters.after))
    return line.order_by(Demonstration.created_at, Demonstration.id)


_SELECTED: dict[Source, Callable[[Session, UUID, Filters], Select[Any]]] = {
    "rankings": _rankings,
    "prompts": _prompts,
    "demonstrations": _demonstrations,
}


def _chosen(session: Session, project_id: UUID, filters: Filters) -> dict[UUID, str]:
    found = labelers(session, project_id)
    return {user: name for user, name in found.items() if filters.labeler in (None, name)}


def _names(found: dict[UUID, str]) -> TableValuedAlias:
    """Return the pseudonyms as a table to join, so that who somebody is never leaves the database."""
    ids = literal(list(found), ARRAY(PG_UUID(as_uuid=True)))
    names = literal(list(found.values()), ARRAY(Text))
    return func.unnest(ids, names).table_valued("user_id", "name").render_derived("labeler")


def labelers(session: Session, project_id: UUID) -> dict[UUID, str]:
    """Return the pseudonyms of all who have had a task of the project."""
    worked = exists().where(Assignment.user_id == User.id, Task.id == Assignment.task_id, Task.project_id == project_id)
    rows = session.execute(select(User.id, User.email).where(worked).order_by(User.id))
    return {user_id: pseudonyms.of_labeler(email) for user_id, email in rows}


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    found = _shared_conditions(filters, Ranking)
    if filters.origin is not None:
        found.append(Ranking.origin == filters.origin)
    if filters.counted is not None:
        found.append(Ranking.counted.is_(filters.counted))
    if filters.state == "current":
        found += standing.rankings()
    return found


def _shared_conditions(filters: Filters, table: type[Ranking] | type[Demonstration]) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if filters.since is not None:
        found.append(table.created_at >= filters.since)
    if filters.until is not None:
        found.append(table.created_at < filters.until)
    if filters.guideline_version is not None:
        found.append(GuidelineVersion.version == filters.guideline_version)
    if filters.judge is not None:
        judge = RANKING_JUDGE if table is Ranking else DEMONSTRATION_JUDGE
        found.append(literal_column(judge) == filters.judge)
    if filters.split is not None:
        found.append(Prompt.split == filters.split)
    return found
